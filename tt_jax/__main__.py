"""`python -m tt_jax` is `tt-jax`."""

from tt_jax.cli.main import main

if __name__ == "__main__":
    main()
