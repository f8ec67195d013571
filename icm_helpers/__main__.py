"""`python -m icm_helpers` is `icm`."""

from icm_helpers.cli import main

if __name__ == "__main__":
    main()
