"""How fast attnfn is, and how much memory it takes, beside what its users would pick instead.

`python -m benchmark --help`, with tests/ on the path; `nox -s bench` installs what it needs.
"""
