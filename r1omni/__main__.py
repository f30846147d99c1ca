"""`python -m r1omni`: the command line, by the code of the working directory."""

import sys

from r1omni.machine.fork_client import run_in_fork_server

run_in_fork_server()
try:
    from r1omni.cli import main
except ModuleNotFoundError as error:
    sys.stderr.write(
        f"error: {sys.executable} has no {error.name}. In the project's folder, "
        "`make install` installs it and `source .venv/bin/activate` chooses that Python\n"
    )
    sys.exit(1)

if __name__ == "__main__":
    main()
