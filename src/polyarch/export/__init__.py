"""What becomes of a build's result: registry, archives, directories, tars, engines; the tag comes last."""
