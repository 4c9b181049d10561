FrOm debian aS Base
RuN true
FROM Base
CoPy --from=base a b
