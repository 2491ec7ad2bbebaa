"""Entry point of ``python -m train``."""

from packformer.run.main import main

if __name__ == "__main__":
    main()
