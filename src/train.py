"""Entry point of ``python -m train``."""

from packformer.ranks.ending import ends_when_interrupted

if __name__ == "__main__":
    with ends_when_interrupted():  # during the imports, too
        from packformer.cache import keep_compiled
        from packformer.command_line.main import main
        from packformer.output import outlive_output, show_crashes
        from packformer.run.start_times import process_began
        from packformer.threads import share_processor

        outlive_output()
        show_crashes()
        share_processor()
        keep_compiled()
        main(began=process_began())
