"""Write the corpus that the repository ships, or another one.

python -m tools.demo_corpus                                    writes data/demo/corpus.tsv.gz again, to the byte
python -m tools.demo_corpus FOLDER --seed 2 --train 100000     writes train.tsv, val.tsv and test.tsv into FOLDER,
                                                               for configs/translation/own_text.yaml
"""

import argparse
import sys
from itertools import chain
from pathlib import Path

from tools.demo_corpus.corpus import SEED, TEST, TRAIN, VAL, as_tsv, compress, generate

SHIPPED = Path(__file__).parents[2] / "data" / "demo" / "corpus.tsv.gz"


def main() -> None:
    """Read the command line and write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, help="where another corpus is written")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--train", type=int, default=TRAIN, help="number of training pairs")
    parser.add_argument("--val", type=int, default=VAL)
    parser.add_argument("--test", type=int, default=TEST)
    arguments = parser.parse_args()
    if arguments.folder is None:
        if (arguments.seed, arguments.train, arguments.val, arguments.test) != (SEED, TRAIN, VAL, TEST):
            parser.error("another corpus needs a FOLDER")
        SHIPPED.parent.mkdir(parents=True, exist_ok=True)
        SHIPPED.write_bytes(compress(as_tsv(list(chain(*generate().values())))))
        sys.stdout.write(f"{SHIPPED}\n")
        return
    try:
        parts = generate(arguments.seed, arguments.train, arguments.val, arguments.test)
    except ValueError as error:
        parser.error(str(error))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, pairs in parts.items():
        file = arguments.folder / f"{name}.tsv"
        file.write_bytes(as_tsv(pairs))
        sys.stdout.write(f"{file}\n")


if __name__ == "__main__":
    main()
