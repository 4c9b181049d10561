"""``polyarch login`` and ``polyarch logout``: credentials, kept where docker keeps them."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("-u", "--username", help="The account's name.")
@click.option("-p", "--password", help="The password or token. Others can see it; prefer --password-stdin.")
@click.option("--password-stdin", is_flag=True, help="Take the password from standard input.")
@click.argument("registry", default="docker.io")
def login(*, username: str | None, password: str | None, password_stdin: bool, registry: str) -> None:
    """Log in to REGISTRY (by default docker.io).

    The credentials are tried first, then kept in docker's config.json or the credential helper it names.
    """
    from polyarch.registry.client import verify_login
    from polyarch.registry.credentials import Credential, docker_config
    from polyarch.registry.logins import save

    host = _host(registry)
    credential = Credential(*_ask(username, password, from_stdin=password_stdin))
    verify_login(host, credential)
    if not save(host, credential):
        print(
            f"warning: the password is kept unencrypted in {docker_config()}; "
            "a credential helper (credsStore in that file) would keep it safer",
            file=sys.stderr,
        )
    print(f"logged in to {host} as {credential.username}")


@click.command()
@click.argument("registry", default="docker.io")
def logout(*, registry: str) -> None:
    """Forget the credentials for REGISTRY (by default docker.io)."""
    from polyarch.registry.logins import erase

    host = _host(registry)
    print(f"logged out of {host}" if erase(host) else f"not logged in to {host}")


def _host(text: str) -> str:
    """The registry's name as in references: without scheme and path, Docker Hub by its short name."""
    from polyarch.errors import UsageError
    from polyarch.oci.reference import Reference
    from polyarch.registry.credentials import hub_names

    host = text.removeprefix("https://").removeprefix("http://").partition("/")[0]
    if host in hub_names():
        return "docker.io"
    try:
        parsed = Reference.parse(f"{host}/x/y")
    except UsageError:
        parsed = None
    if parsed is None or parsed.registry != host:
        raise UsageError(
            f"{text!r} is not a registry's address",
            hint="write host or host:port, such as ghcr.io or localhost:5000",
            reason="invalid-reference",
        )
    return host


def _ask(username: str | None, password: str | None, *, from_stdin: bool) -> tuple[str, str]:
    """Name and password: from the options, standard input, or the user."""
    from polyarch.errors import UsageError

    if from_stdin:
        if password is not None:
            raise UsageError("--password and --password-stdin exclude each other", reason="conflict")
        if not username:
            raise UsageError("--password-stdin needs --username", reason="missing-option")
        return username, sys.stdin.read().rstrip("\r\n")
    if password is not None:
        print(
            "warning: a password on the command line is seen by others; use --password-stdin", file=sys.stderr
        )
    if (username is None or password is None) and not sys.stdin.isatty():
        raise UsageError(
            "there is no terminal to ask for the credentials on",
            hint="give them: polyarch login -u NAME --password-stdin HOST < file",
            reason="no-terminal",
        )
    name: str = username or click.prompt("Username", err=True)
    secret: str = password if password is not None else click.prompt("Password", hide_input=True, err=True)
    return name, secret
