"""BuildKit's messages as far as we speak them. The modules here are made by ``scripts/make_protocol.py`` from
the protocol files beside them."""
