"""Trains a LoRA: python train.py [group=option …] [key=value …]; --help shows the menu."""

from loralab.train import main

if __name__ == "__main__":
    main()
