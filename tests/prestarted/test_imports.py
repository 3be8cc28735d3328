"""What is imported is not looked through for garbage again, until the process ends."""

import subprocess
import sys
import textwrap


def test_what_was_imported_is_out_of_the_search_until_the_end() -> None:
    code = """
        import atexit, gc
        atexit.register(lambda: print(gc.get_freeze_count()))
        from serve_app.prestarted.imports import no_garbage_collection
        with no_garbage_collection():
            print(gc.isenabled())
            import sched
        print(gc.isenabled(), gc.get_freeze_count() > 0)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["False", "True", "True", "0"]
