"""Trains a LoRA: python train.py [group=option …] [key=value …]; --help shows the menu."""

from loralab import console, signals

if __name__ == "__main__":
    with signals.listening(for_good=True), console.kept():
        console.greet()
        from loralab.run import main  # takes a second

        main()
