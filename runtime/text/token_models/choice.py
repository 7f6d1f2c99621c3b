"""Which rule a bundle's `tokenizer.json` asks for."""

from __future__ import annotations

from ....artifacts.token_table import TokenTable, is_token_table
from .library import LibraryModel
from .longest_match import LongestMatch
from .merges import RankMerges, ScoreMerges
from .model import TableModel, TokenModel
from .plamo2 import Plamo2
from .unigram import Unigram
from .word_pieces import WordPieces

_OF_TABLES: dict[str, type[TableModel]] = {
    "score_merges": ScoreMerges,
    "rank_merges": RankMerges,
    "unigram": Unigram,
    "word_pieces": WordPieces,
    "longest_match": LongestMatch,
    "plamo2": Plamo2,
}


def token_model(json_text: str, size: int) -> TokenModel:
    """Make a model of the text of `tokenizer.json`, of a vocabulary of `size` tokens.

    Raises:
        ValueError: it is neither a table nor what the library reads.
    """
    if not is_token_table(json_text):
        return LibraryModel(json_text, size)
    table = TokenTable.from_json(json_text)
    return _OF_TABLES[table.kind](table)
