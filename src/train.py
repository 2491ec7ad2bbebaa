"""Entry point of ``python -m train``."""

from packformer.cache import keep_compiled
from packformer.command_line.main import main
from packformer.run.start_times import process_began
from packformer.threads import share_processor

if __name__ == "__main__":
    share_processor()
    keep_compiled()
    main(began=process_began())
