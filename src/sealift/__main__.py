"""``python -m sealift``: the command line."""

from sealift.cli import main

if __name__ == "__main__":
    main()
