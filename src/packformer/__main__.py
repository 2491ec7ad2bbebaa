"""``python -m packformer``: the command ``packformer``."""

from packformer.cli import main

if __name__ == "__main__":
    main()
