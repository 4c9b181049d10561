"""The rules that Dockerfiles are checked by: their names, what they are for, and where that is explained.

The names are BuildKit's, so that ``# check=skip=…`` means the same to both; the words are our own.
"""

from __future__ import annotations

from dataclasses import dataclass

DOCUMENTATION = "docs/checks"


@dataclass(frozen=True)
class Rule:
    """``experimental`` rules must be asked for."""

    name: str
    description: str
    experimental: bool = False

    @property
    def url(self) -> str:
        """The page that explains the rule, relative to the project."""
        return f"{DOCUMENTATION}/{self.name}.md"


_ALL = (
    Rule("StageNameCasing", "Stage names are written in lower case"),
    Rule("FromAsCasing", "FROM and AS are written in the same case"),
    Rule("NoEmptyContinuation", "No empty lines inside an instruction"),
    Rule("ConsistentInstructionCasing", "All instructions are written in the same case"),
    Rule("DuplicateStageName", "Every stage has a name of its own"),
    Rule("ReservedStageName", "No stage is called scratch or context"),
    Rule("JSONArgsRecommended", "CMD and ENTRYPOINT in JSON form receive signals"),
    Rule("MaintainerDeprecated", "A label takes the place of MAINTAINER"),
    Rule("UndefinedArgInFrom", "FROM uses only arguments that are declared"),
    Rule("UndefinedVar", "Variables are defined before they are used"),
    Rule("WorkdirRelativePath", "The first WORKDIR of a build is absolute"),
    Rule("MultipleInstructionsDisallowed", "CMD, ENTRYPOINT and HEALTHCHECK stand once in a stage"),
    Rule("LegacyKeyValueFormat", "Names and values are joined by '='"),
    Rule("RedundantTargetPlatform", "FROM has the target platform without being told"),
    Rule("SecretsUsedInArgOrEnv", "No secret in ARG or ENV, where every user of the image finds it"),
    Rule("InvalidDefaultArgInFrom", "FROM is valid with the defaults of its arguments"),
    Rule("FromPlatformFlagConstDisallowed", "FROM leaves the platform to the build"),
    Rule("CopyIgnoredFile", "Nothing is copied that the ignore file keeps out"),
    Rule("InvalidDefinitionDescription", "A comment that describes starts with the name", experimental=True),
    Rule("ExposeProtoCasing", "Protocols of EXPOSE are written in lower case"),
    Rule("ExposeInvalidFormat", "EXPOSE names ports of the container only"),
    Rule("InvalidBaseImagePlatform", "The base image is for the platform that is built for"),
)

RULES: dict[str, Rule] = {rule.name: rule for rule in _ALL}
