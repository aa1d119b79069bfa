"""Story files for the Z-machine, of instructions given byte by byte: games that go wrong.

"The Z-Machine Standards Document", version 1.1, has the header (section 11) and the instructions
(section 14).
"""

READ = b"\xe4\x0f\x05\x00\x05\x80\x00"  # Waits for a line of text.
SAVE = b"\xbe\x00\xff\x00"  # Saves the game to a file.
ILLEGAL = b"\x00"  # An instruction that there is none.
HANG = b"\x8c\xff\xff"  # Jumps to itself.

_CODE, _DICTIONARY, _TEXT, _WORDS, _SIZE = 0x800, 0x700, 0x500, 0x580, 0x1000


def story(code: bytes) -> bytes:
    """A story file of version 8 that runs `code` over and over; it says nothing."""
    memory = bytearray(_SIZE)
    memory[0] = 8  # version
    # High memory, first instruction, dictionary, objects, globals, static memory, abbreviations,
    # and the size of the file in eights.
    for place, value in zip(
        (0x04, 0x06, 0x08, 0x0A, 0x0C, 0x0E, 0x18, 0x1A),
        (_CODE, _CODE, _DICTIONARY, 0x100, 0x300, 0x600, 0x40, _SIZE // 8),
        strict=True,
    ):
        memory[place : place + 2] = value.to_bytes(2, "big")
    memory[_TEXT], memory[_WORDS] = 100, 10  # How much READ may write to each.
    memory[_DICTIONARY + 1] = 9  # The length of its entries, of which there are none.
    back = b"\x8c" + (-len(code) - 1).to_bytes(2, "big", signed=True)
    memory[_CODE : _CODE + len(code) + 3] = code + back
    return bytes(memory)
