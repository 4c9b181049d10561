"""Base images made out of Debian packages: the answer to "my base image lacks a platform".

    Recipe ─host_sources→ sources ─archive→ packages per platform
        ─┬─ assemble: unpacked by us, no script runs
         └─ bootstrap: mmdebstrap, scripts run, emulated where foreign
        ─→ a root filesystem as one tar ─publish→ one manifest per platform ─→ one index, one name

``make.make`` is the whole of it. Imports nothing when the package is imported.
"""
