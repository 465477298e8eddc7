"""Training: `loralab train`, `python -m loralab.train` and `python train.py` are the same."""

from loralab import console, signals
from loralab.imports import importing


def main() -> None:
    """Trains as the command line says: [group=option …] [key=value …]; --help shows the menu."""
    with signals.listening(for_good=True), console.kept():
        console.greet()
        with importing():
            from loralab.launch import main

        main()


if __name__ == "__main__":
    main()
