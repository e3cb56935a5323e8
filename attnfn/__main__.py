"""`python -m attnfn`: attention on a real sentence, and a check of every library found here."""

import argparse
import os
import sys
from collections.abc import Sequence

from ._attention import attention_weights
from ._demo import (
    check_libraries,
    describe_check,
    describe_outcome,
    describe_sentence,
    load_sentence,
    make_calls,
    save_picture,
    shades_for,
    verdict,
)

__all__ = ["main"]

SENTENCE = load_sentence()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; return 1 if an array library disagrees with the loops, else 0."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    weights = attention_weights(SENTENCE.query, SENTENCE.key)[options.head]
    if options.plot is not None:
        try:
            save_picture(options.plot, SENTENCE, options.head, weights)
        except (ImportError, OSError, ValueError) as error:
            parser.error(f"argument --plot: {error}")

    shades = shades_for(sys.stdout.encoding)
    print(describe_sentence(SENTENCE, options.head, weights, shades))
    if options.plot is not None:
        print(f"\nThe picture is in {options.plot}.")

    calls = make_calls(SENTENCE)
    print(f"\n{describe_check(calls)}")
    outcomes = []
    for outcome in check_libraries(calls):
        outcomes.append(outcome)
        # Importing a library takes seconds: say at once what is known.
        print(describe_outcome(outcome), flush=True)
    print(f"\n{verdict(outcomes)}")
    return int(any(outcome.disagrees for outcome in outcomes))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m attnfn",
        description="Show what the tokens of a real sentence attend to, and check attention "
        "in every array library that is installed here.",
    )
    parser.add_argument(
        "--head",
        type=head,
        default=4,
        metavar="N",
        help=f"which head to show, 0 to {SENTENCE.num_heads - 1} (default: %(default)s)",
    )
    parser.add_argument("--plot", metavar="FILE.png", help="draw it into a file as well")
    return parser


def head(text: str) -> int:
    """Return the number of a head."""
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number < SENTENCE.num_heads:
        message = f"must be a whole number from 0 to {SENTENCE.num_heads - 1}; got {text}"
        raise argparse.ArgumentTypeError(message)
    return number


if __name__ == "__main__":
    try:
        status = main()
    except BrokenPipeError:
        # Who reads has read enough, as `head` does. Python would complain once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)
