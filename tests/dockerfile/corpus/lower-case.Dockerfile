from debian as base
run true
env a=b
cmd ["x"]
