"""Makes everything that is released: wheel, sdist, Debian package, SBOM, licences, checksums, signature.

`PYTHONPATH=packaging python -m release --help`; `make package` calls it. One subject a file; nothing here is installed.
"""
