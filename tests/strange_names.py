"""Names that must never become a path, as a stranger may write them into an archive or a model's folder."""

STRANGE = [
    "../x.png",
    "../../x.png",
    "a/../../x.png",
    "a/..",
    "..",
    "/x.png",
    "//x.png",
    "/etc/passwd.png",
    "..\\x.png",
    "a\\..\\..\\x.png",
    "\\x.png",
    "\\\\server\\share\\x.png",
    "C:x.png",
    "C:/x.png",
    "c:\\x.png",
    "a\x00.png",
    "a\n.png",
    "\x1b[2Ja.png",
    "",
    ".",
]
NO_TEXT = [None, 7, True, ["a.png"], {"a": "b"}]
