"""The process of a worker: runs jobs of a sweep as ``python -m train`` does, one after another."""

from packformer.ranks.ending import ends_when_interrupted

if __name__ == "__main__":
    with ends_when_interrupted():  # during the imports, too
        from packformer.cache import keep_compiled
        from packformer.command_line.serving import serve
        from packformer.output import outlive_output, show_crashes
        from packformer.run.start_times import process_began
        from packformer.sweeps.worker import orders
        from packformer.threads import share_processor

        connection = orders()
        outlive_output()
        show_crashes()
        share_processor()
        keep_compiled()
        serve(connection, process_began())
