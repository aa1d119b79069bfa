"""Many texts with common beginnings, laid out so that a decoder reads every beginning once.

All candidate actions of a state share its prompt, many actions share their first words, and the
prompts of many states share a task. A row holds such texts as a trie (prefix tree) of tokens: each
token stands once for all texts that begin alike up to it, attends to its ancestors only, and has
its distance from the root as its position. So the decoder computes for it exactly what it would
compute in each text alone.

The tokens of a trie are laid out depth first. Then the descendants of token j are the tokens
`j + 1 .. ends[j] - 1`, and the whole attention mask follows from the one vector `ends`:
token i may attend to token j if `j <= i < ends[j]`. Several tries stand in a row side by side.

Everything here is NumPy on the host.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from llmprior_jax.priors.scoring.sizes import DEFAULT, Sizes

# A pass reads all parameters from memory, however few its tokens: worth about so many of them.
_TOKENS_LIKE_A_PASS = 64
# An action is at least a token of its own and shares a prompt with others: a quarter of a row's
# tokens are slots enough for results, and a row that needs more is made longer.
_TOKENS_PER_SLOT = 4


class Tails(NamedTuple):
    """What the texts of one state go on with after their head, laid out as a trie of T tokens.

    Indices count from the first token after the head; -1 is the head's last token.

    Attributes:
      tokens: i32[T], depth first.
      depths: i32[T], how many tokens each text has between the head and the token.
      ends: i32[T], one past the last descendant of each token.
      before: i32[T], the token before each in its texts.
      queries: i32[Q], the tokens that others come after, each once and in order; the first is -1.
      query: i32[T], for each token the index in `queries` of the token before it.
      last: i32[A], the last token of each action.
      lengths: i32[A], how many tokens each action has.
    """

    tokens: np.ndarray
    depths: np.ndarray
    ends: np.ndarray
    before: np.ndarray
    queries: np.ndarray
    query: np.ndarray
    last: np.ndarray
    lengths: np.ndarray

    def path(self, a: int) -> np.ndarray:
        """The tokens of one action, i32[length]."""
        path = np.empty(self.lengths[a], np.int32)
        token = self.last[a]
        for depth in range(len(path) - 1, -1, -1):
            path[depth], token = token, self.before[token]
        return path


class Sequences(NamedTuple):
    """The tokens of one state's texts, which are a head that all have, and a tail for each.

    Attributes:
      head: i32[length], one or more tokens that do not count as the actions'.
      tails: the tokens of the actions; equal beginnings are computed once.
      prompt: i32[length], what an encoder reads before; None where the prompt begins the texts.
    """

    head: np.ndarray
    tails: Tails
    prompt: np.ndarray | None = None


class Packed(NamedTuple):
    """Rows of packed texts, and where in them to look for results. R rows, L tokens, N slots.

    Token and slot indices count through all rows: token `i` of row `r` is `r * L + i`.

    Attributes:
      tokens: i32[R, L].
      positions: i32[R, L], the position of each token in its texts.
      ends: i32[R, L], one past the last descendant of each token, counted within the row.
      queries: i32[R * L], the tokens whose next-token distribution is needed; the first
        `num_queries` are valid.
      num_queries: i32[].
      query: i32[R, L], for each token the index in `queries` of the token before it; -1 where the
        token's own probability is not needed.
      first: i32[N], for each slot the position of the first token to count.
      last: i32[N], for each slot the last token of the text.
      prompts: i32[R, S], what an encoder reads for each row, or None.
      prompt_lengths: i32[R], how many of those tokens are no padding, or None.
    """

    tokens: np.ndarray
    positions: np.ndarray
    ends: np.ndarray
    queries: np.ndarray
    num_queries: np.ndarray
    query: np.ndarray
    first: np.ndarray
    last: np.ndarray
    prompts: np.ndarray | None = None
    prompt_lengths: np.ndarray | None = None


class Pass(NamedTuple):
    """The texts of one forward pass.

    Attributes:
      packed: the rows.
      places: i32[number of texts, 3], the (state, action, slot) of each text.
    """

    packed: Packed
    places: np.ndarray


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the longest common beginning of two vectors."""
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n


def lay_out(texts: Sequence[list[int]]) -> Tails:
    """Lays the tails of texts out as a trie.

    Args:
      texts: the token ids of each action, one or more.
    """
    tokens: list[int] = []
    depths: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    last = [-1] * len(texts)
    previous: list[int] = []
    path: list[int] = []
    for a in sorted(range(len(texts)), key=lambda a: texts[a]):
        text = texts[a]
        shared = 0
        for one, other in zip(previous, text, strict=False):
            if one != other:
                break
            shared += 1
        for closed in path[shared:]:
            ends[closed] = len(tokens)
        del path[shared:]
        parent = path[-1] if path else -1
        for depth in range(shared, len(text)):
            before.append(parent)
            parent = len(tokens)
            path.append(parent)
            tokens.append(text[depth])
            depths.append(depth)
            ends.append(0)
        last[a], previous = parent, text
    for closed in path:
        ends[closed] = len(tokens)
    queries = sorted(set(before))
    index = {token: i for i, token in enumerate(queries)}
    query = [index[token] for token in before]
    of_tokens = np.array([tokens, depths, ends, before, query], np.int32)
    lengths = list(map(len, texts))
    return Tails(
        *of_tokens[:4],
        queries=np.array(queries, np.int32),
        query=of_tokens[4],
        last=np.array(last, np.int32),
        lengths=np.array(lengths, np.int32),
    )


def passes(states: Sequence[Sequences], sizes: Sizes = DEFAULT) -> Iterator[Pass]:
    """Distributes states over rows and rows over forward passes.

    Args:
      states: the texts of each state, at least one for every state. All have prompts of their own,
        and each gets a row of its own then, or none has.
      sizes: of rows and passes.

    Yields:
      Passes that together hold every text of every state once. R and L (and S) take few different
      values, and N depends on them alone, so few shapes are compiled.
    """
    if not states:
        return
    prompts = [state.prompt for state in states if state.prompt is not None]
    if prompts:
        yield from _passes_with_prompts(states, prompts, sizes)
        return
    # Sorted, states with a common beginning are neighbors and meet in a row.
    short: list[int] = []
    long: list[int] = []  # Apart, so that one long state does not make every row long.
    for b in sorted(range(len(states)), key=lambda b: sort_key(states[b].head)):
        (short if _tokens_needed(states[b]) <= sizes.row_tokens else long).append(b)
    for order in filter(None, (short, long)):
        rows, length = _fill_rows(states, order, sizes)
        for begin, end in itertools.pairwise(_cuts(len(rows), length, sizes)):
            yield _pack(states, rows[begin:end], length)


def alone(states: Sequence[Sequences]) -> list[Packed]:
    """Each state in a row of its own, all of one length, for who takes states one by one."""
    length = bucket(max(map(_tokens_needed, states)), steps=4)
    return [_pack([state], [[0]], length).packed for state in states]


def _passes_with_prompts(
    states: Sequence[Sequences], prompts: Sequence[np.ndarray], sizes: Sizes
) -> Iterator[Pass]:
    """One state in a row; prompts of like length share a pass, so that there is little padding."""
    length = bucket(max(map(_tokens_needed, states)), steps=1)
    order = sorted(range(len(states)), key=lambda b: len(prompts[b]))
    for begin, end in itertools.pairwise(_cuts(len(order), length, sizes)):
        chosen = order[begin:end]
        lengths = np.asarray([len(prompts[b]) for b in chosen], np.int32)
        padded = np.zeros((len(chosen), bucket(int(lengths.max()), steps=2)), np.int32)
        for row, b in zip(padded, chosen, strict=True):
            row[: len(prompts[b])] = prompts[b]
        packed, places = _pack(states, [[b] for b in chosen], length)
        yield Pass(packed._replace(prompts=padded, prompt_lengths=lengths), places)


def _cuts(rows: int, length: int, sizes: Sizes) -> list[int]:
    """Where to cut a number of rows into passes: 0, ..., rows."""
    cuts = [0]
    for several in sizes.rows_per_pass(length):
        cuts.extend(range(cuts[-1] + several, rows + 1, several))
    return cuts


def _fill_rows(
    states: Sequence[Sequences], order: Sequence[int], sizes: Sizes
) -> tuple[list[list[int]], int]:
    """Puts indices of states into rows, in their order, and says how many tokens every row has."""
    heads = [states[b].head for b in order]
    shared = [0, *itertools.starmap(common_prefix, itertools.pairwise(heads))]
    tokens = [_size(states[b]) for b in order]
    slots = [len(states[b].tails.last) for b in order]

    def fill(length: int) -> list[list[int]]:
        rows: list[list[int]] = []
        room = free = 0
        for b, size, in_common, count in zip(order, tokens, shared, slots, strict=True):
            if not rows or size - in_common > room or count > free:
                rows.append([])
                room, free, in_common = length, length // _TOKENS_PER_SLOT, 0
            rows[-1].append(b)
            room -= size - in_common
            free -= count
        return rows

    def cost(length: int) -> float:
        rows = len(fill(length))
        work = rows * length * (1 + length / sizes.attention_tokens)
        return work + _TOKENS_LIKE_A_PASS * (len(_cuts(rows, length, sizes)) - 1)

    # Either rows that fit the longest state, or rows of a standard length for several states. Both
    # vary little within a run, whatever the size of a batch.
    needs = [_tokens_needed(states[b]) for b in order]
    is_little = sum(needs) <= 2 * sizes.row_tokens
    close = bucket(max(needs), steps=sizes.lengths_of_little if is_little else 8)
    standard = min(bucket(sum(needs), steps=1), sizes.row_tokens)
    length = min((close, max(close, standard)), key=cost)
    return fill(length), length


def _pack(states: Sequence[Sequences], rows: Sequence[Sequence[int]], length: int) -> Pass:
    """Lays the texts of each row's states out as a trie."""
    R, L, slots_per_row = len(rows), length, length // _TOKENS_PER_SLOT
    tokens = np.zeros((R, L), np.int32)
    positions = np.zeros((R, L), np.int32)
    ends = np.tile(np.arange(1, L + 1, dtype=np.int32), (R, 1))  # Padding sees itself only.
    queries = np.zeros(R * L, np.int32)
    query = np.full((R, L), -1, np.int32)
    first = np.zeros(R * slots_per_row, np.int32)
    last = np.zeros(R * slots_per_row, np.int32)
    places = np.empty((sum(len(states[b].tails.last) for row in rows for b in row), 3), np.int32)
    num_queries = of_head = num_placed = 0  # Queries, and which is that of the head's last token.
    for r, row in enumerate(rows):
        used, slot = 0, r * slots_per_row
        head = path = np.zeros(0, np.int32)  # The row's tokens that hold the head.
        for b in row:
            before, (head, tails, _) = head, states[b]
            shared = common_prefix(before, head)
            ends[r, path[shared:]] = used
            new = np.arange(used, used + len(head) - shared, dtype=np.int32)
            path = np.concatenate([path[:shared], new])
            tokens[r, new] = head[shared:]
            positions[r, new] = np.arange(shared, len(head))
            used += len(new)

            here = slice(used, used + len(tails.tokens))
            tokens[r, here] = tails.tokens
            positions[r, here] = len(head) + tails.depths
            ends[r, here] = used + tails.ends
            if len(new) or len(before) != len(head):
                of_head, num_queries = num_queries, num_queries + 1
                queries[of_head] = r * L + path[-1]
            others = len(tails.queries) - 1
            queries[num_queries : num_queries + others] = r * L + used + tails.queries[1:]
            query[r, here] = np.where(tails.query == 0, of_head, num_queries - 1 + tails.query)
            num_queries += others

            count = len(tails.last)
            slots = slice(slot, slot + count)
            first[slots] = len(head)
            last[slots] = r * L + used + tails.last
            placed = places[num_placed : num_placed + count]
            placed[:, 0], placed[:, 1] = b, np.arange(count)
            placed[:, 2] = np.arange(slot, slot + count)
            num_placed += count
            used, slot = here.stop, slot + count
        ends[r, path] = used
    counted = np.asarray(num_queries, np.int32)
    packed = Packed(tokens, positions, ends, queries, counted, query, first, last)
    return Pass(packed, places)


def sort_key(tokens: np.ndarray) -> bytes:
    """Sorts as the tokens would, one after the other, only faster: bytes compare in C."""
    return tokens.astype(">u4").tobytes()


def _size(state: Sequences) -> int:
    """Number of tokens in the trie of a state's texts."""
    return len(state.head) + len(state.tails.tokens)


def _tokens_needed(state: Sequences) -> int:
    """Tokens that a row must have for one state, and for a slot for each of its texts."""
    return max(_size(state), _TOKENS_PER_SLOT * len(state.tails.last))


def bucket(n: int, steps: int) -> int:
    """The next multiple of 16 of a few, which are `steps` to each doubling."""
    step = max(16, (1 << (n - 1).bit_length()) // (2 * steps))
    return -(-n // step) * step
