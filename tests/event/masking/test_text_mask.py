"""Text inside text: a secret under a masked name is nowhere in the event, whatever it is wrapped in, and how often.

A document is made from the inside out: what holds the secret is wrapped in one format after the other, each spelled
with the freedom that it leaves.
"""

from __future__ import annotations

import gzip
import html
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from quopri import encodestring
from random import Random
from unicodedata import normalize
from urllib.parse import quote, quote_plus, unquote_plus
from xml.sax.saxutils import escape, quoteattr

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mitmproxy_moesif.config.policy import BodyPolicy
from mitmproxy_moesif.event.bodies import render
from mitmproxy_moesif.event.headers import text
from mitmproxy_moesif.event.masking import mask_query, mask_urls
from mitmproxy_moesif.event.masking.names import FieldNames

type Wrap = Callable[[str, Random], str]

SECRET = "s3cr3t-7f21"
MASKS = frozenset({"password", "api_key"})
FORM = "application/x-www-form-urlencoded"
XML = "text/xml"
MULTIPART = "multipart/form-data; boundary=frontier"


def shown(raw: str | bytes, content_type: str = "", masks: frozenset[str] = MASKS) -> bytes | None:
    """What the event tells of the body, read back as bytes; None where it was left out as unmaskable."""
    body = raw.encode() if isinstance(raw, str) else raw
    rendered = render(body, content_type, "", BodyPolicy(True, 10**8, masks, True, False))
    if rendered.transfer_encoding == "json":
        return orjson.dumps(rendered.value)
    assert rendered.omitted in (None, "unmaskable")
    return b64decode(rendered.value) if isinstance(rendered.value, str) else (None if rendered.omitted else b"")


def readings(text: str) -> str:
    """A text with all that unescaping it, once or many times over, can make of it."""
    seen = [text]
    for _ in range(10):
        text = html.unescape(unquote_plus(text))
        text = re.sub(r"\\u([0-9A-Fa-f]{4})", lambda code: chr(int(code[1], 16)), text).replace("\\", "")
        seen.append(text)
    return "\n".join(seen)


# --- the secret --------------------------------------------------------------------------------------------------

CARRIERS = [
    '{"password":"SECRET"}',
    '[{"a":[1,{"PassWord":["SECRET"]}]}]',
    '{"user.password":"SECRET"}',
    '{"password":"SECRET"',
    '{"a":1}\n{"password":"SECRET"}',
    "{password:'SECRET'}",
    "{'password': 'SECRET'}",
    ")]}',{\"password\":\"SECRET\"}",
    "cb({'password':'SECRET'})",
    'mutation { login(password: "SECRET") { id } }',
    'data: {"password":"SECRET="}\n\n',
    "password=SECRET",
    "a=1&password=SECRET&b=2",
    "a=1;password=SECRET",
    "user[password]=SECRET",
    "pass%77ord=SECRET",
    "password%3DSECRET",
    "https://x/?password=SECRET",
    "password: SECRET",
    "api_key : SECRET",
    "password => SECRET",
    "user:\n  password:\n    SECRET",
    "<a><password>SECRET</password></a>",
    "<n:password>SECRET</n:password>",
    "<a password='SECRET'/>",
    "x <password>SECRET",
    '<?xml version="1.0" encoding="utf-16"?><a><password>SECRET</password></a>',
    "<a><![CDATA[password=SECRET]]></a>",
    "<a>pass<!-- -->word=SECRET</a>",
    "<!DOCTYPE html><input name='password' value='SECRET'>",
    "name,password\nada,SECRET\n",
    "password\tname\nSECRET\tada\n",
    "\ufeffpassword=SECRET",
    '\ufeff{"password":"SECRET"}',
    'Content-Disposition: form-data; name="password"\r\n\r\nSECRET\r\n',
    "pa\u017f\u017fword=SECRET",
    r'{"pass\u0077ord":"SECRET"}',
    r"pass\u0077ord=SECRET",
    "&#112;assword=SECRET",
    "a=1&password=x;SECRET&b=2",
    "a=1&password=x&amp;SECRET",
    'a=1&password="x;SECRET"',
    'a=1&password="x&SECRET"',
    "a=1&v=password:x;SECRET",
    "password;SECRET=1",
    "password%3D=SECRET",
    "api&lowbar;key=SECRET",
    "pass%2577ord=SECRET",
    "a=1&amppassword=SECRET",
    "a &#46password=SECRET",
    "pass&amp#119;ord=SECRET",
    "pas\\sword=SECRET",
    "pass\\167ord=SECRET",
    "pass&\\#119;ord=SECRET",
    "pass\\Word: SECRET",
    '{"a password:":"SECRET"}',
    '{"<password>":"SECRET"}',
    '{"password=":"SECRET"}',
    '{"\\"password\\"":"SECRET"}',
    '{"user%5Bpassword%5D":"SECRET"}',
    '{"pass%2577ord":"SECRET"}',
    '{"user->password":"SECRET"}',
    r'{"p\u0000a\u0000s\u0000s\u0000w\u0000o\u0000r\u0000d\u0000":"SECRET"}',
    "{/*a*/password/* a comment of a few words */:'SECRET'}",
    "{password // a comment\n:'SECRET'}",
    'mutation { login(password # a comment\n: "SECRET") { id } }',
    'login(password,,: "SECRET")',
    "password" + " " * 200 + ": SECRET",
    "password" + "\t" * 200 + "=SECRET",
    'password["x"]: SECRET',
    "password[x y]=SECRET",
    "password is: SECRET",
    "password -> SECRET",
    "password\uff1a SECRET",
    "--password=SECRET",
    "login --password SECRET --user ada",
    'a:1:{s:8:"password";s:11:"SECRET";}',
    "<a><user.password>SECRET",
    "<user.password>SECRET</user.password>",
    "<a>password=<b>SECRET</b></a>",
    "<a>password: <b>SECRET</b></a>",
    "<a><b>password</b>: <b>SECRET</b></a>",
    "<a><b>password:</b> SECRET</a>",
    "<a><dt>password:</dt><dd>SECRET</dd></a>",
    "name,user.password\nada,SECRET",
    "name,user[password]\nada,SECRET",
    "name;@password\nada;SECRET",
    "name,password\rada,SECRET",
    "name,password\u2028ada,SECRET",
    "user:password\nada:SECRET",
    "name   password\nada    SECRET",
    "p\0a\0s\0s\0w\0o\0r\0d\0=\0SECRET",
    "[password]\nvalue = SECRET",
]  # fmt: skip


# --- what it is wrapped in ---------------------------------------------------------------------------------------


def json_text(text: str, random: Random) -> str:
    if random.random() < 0.3:
        units = text.encode("utf-16-be", "surrogatepass")
        return '"' + "".join(f"\\u{int.from_bytes(units[i : i + 2]):04x}" for i in range(0, len(units), 2)) + '"'
    return json.dumps(text, ensure_ascii=random.random() < 0.5).replace("/", random.choice(["/", "\\/"]))


def percent(text: str, random: Random) -> str:
    if random.random() < 0.3:
        return "".join(f"%{byte:02{random.choice('xX')}}" for byte in text.encode())
    return random.choice([quote_plus, quote])(text, safe=random.choice(["", "/:"]))


def xml_text(text: str, random: Random) -> str:
    if random.random() < 0.3:
        return "".join(random.choice([f"&#{ord(char)};", f"&#x{ord(char):x};"]) for char in text)
    if random.random() < 0.3 and "]]>" not in text:
        return f"<![CDATA[{text}]]>"
    return escape(text)


def in_json(text: str, random: Random) -> str:
    return random.choice(['{{"a":1,"v":{}}}', "[{}]", '{{"a":[{{"v":{}}}]}}', '{{"b":"c",{}:1}}']).format(
        json_text(text, random)
    )


def in_form(text: str, random: Random) -> str:
    return random.choice(["v={}", "a=1&v[]={}", "a=1;v={};b=2", "{}=", "{}"]).format(percent(text, random))


def in_xml(text: str, random: Random) -> str:
    if any(char < " " and char not in "\t\n\r" for char in text):
        return in_json(text, random)
    if random.random() < 0.4:
        text = "".join(f"&#{ord(char)};" for char in text) if random.random() < 0.3 else quoteattr(text)[1:-1]
        return f"<r><v a='{text.replace("'", '&apos;')}'/></r>"
    return f"<r>1<v>{xml_text(text, random)}</v></r>"


def in_multipart(text: str, random: Random) -> bytes:
    headers, content = random.choice(
        [
            ("", text.encode()),
            ("\r\nContent-Type: text/plain; charset=utf-8", text.encode()),
            ("\r\nContent-Transfer-Encoding: base64", b64encode(text.encode())),
            ("\r\nContent-Transfer-Encoding: quoted-printable", encodestring(text.encode())),
            ("\r\nContent-Type: text/csv", text.encode()),
            ("\r\nContent-Type: application/json", text.encode()),
            ("\r\nContent-Type: application/xml", text.encode()),
            ("\r\nContent-Type: application/x-www-form-urlencoded", text.encode()),
            ("\r\nContent-Type: image/png", text.encode()),
            ("\r\nContent-Type: text/plain; charset=utf-16", text.encode("utf-16")),
        ]
    )
    head = f'--frontier\r\nContent-Disposition: form-data; name="v"{headers}\r\n\r\n'
    return head.encode() + content + b"\r\n--frontier--\r\n"


def body(text: str, random: Random) -> tuple[bytes, str]:
    """`text` in a body of some format, and the media type that it is said to have, which is not always its own."""
    said = random.choice([FORM, "application/json", "text/plain", "", "application/xml", MULTIPART])
    return random.choice(
        [
            (in_json(text, random).encode(), said),
            (in_form(text, random).encode(), FORM),
            (in_xml(text, random).encode(), "text/xml"),
            (in_multipart(text, random), MULTIPART),
            (text.encode(), said),
        ]
    )


layers = st.lists(st.sampled_from([in_json, in_form, in_xml]), max_size=4)


@given(st.sampled_from(CARRIERS), layers, st.randoms(use_true_random=False))
def test_a_secret_is_nowhere_however_it_is_wrapped(carrier: str, wrappers: list[Wrap], random: Random) -> None:
    text = carrier.replace("SECRET", SECRET)
    for wrap in wrappers:
        text = wrap(text, random)
    raw, content_type = body(text, random)
    told = shown(raw, content_type)
    if told is not None:
        texts = [told.decode(errors="replace"), told.replace(b"\0", b"").decode("latin-1")]
        texts += [
            b64decode(found).decode(errors="replace") for found in re.findall(rb"\n([A-Za-z0-9+/=]{16,})\r", told)
        ]
        assert SECRET not in readings("\n".join(texts)).replace("=\n", "")


harmless = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff"))


def in_string(text: str, random: Random) -> str:
    return json.dumps({"a": [{"v": text}]}, ensure_ascii=random.random() < 0.5)


def in_value(text: str, random: Random) -> str:
    return f"a=1&v={percent(text, random)}"


@given(
    harmless | st.sampled_from(["password", "my password", "passwords=1", "a=password", "x-password: 1"]),
    st.lists(st.sampled_from([in_string, in_value, in_xml]), max_size=4),
    st.randoms(use_true_random=False),
)
@pytest.mark.parametrize(
    ("wrap", "content_type"), [(in_string, ""), (in_value, FORM), (in_xml, "text/xml")], ids=["json", "form", "xml"]
)
def test_text_that_names_no_masked_field_keeps_every_byte(
    wrap: Wrap, content_type: str, text: str, wrappers: list[Wrap], random: Random
) -> None:
    for inner in [*wrappers, wrap]:
        text = inner(text, random)
    assert shown(text, content_type) == text.encode()


# --- what is left ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "content_type", "expected"),
    [
        ('{"m":"{\\"password\\":\\"S\\",\\"a\\":1}"}', "", '{"m":"{\\"a\\":1}"}'),
        ('{"m":"a=1&password=S&b=2"}', "", '{"m":"a=1&b=2"}'),
        ('{"m":"<a><password>S</password><b/></a>"}', "", '{"m":"<a><b/></a>"}'),
        ('{"m":"password: S","a":1}', "", '{"m":"*****","a":1}'),
        ('{"{\\"password\\":1}":2,"a":3}', "", '{"a":3}'),
        ('{"m":"a=1&password=x;S&b=2"}', "", '{"m":"a=1&b=2"}'),
        ('{"m":"\\ud800","password":1}', "", '{"m":"\\ud800"}'),
        ('{"\\ud800password":1,"m":"\\ud800password=1"}', "", '{"m":"*****"}'),
        ("m=%7B%22password%22%3A1%2C%22a%22%3A2%7D&b=3", FORM, "m=%7B%22a%22%3A2%7D&b=3"),
        ("%7B%22password%22%3A%22S%22%7D=&a=1", FORM, "a=1"),
        ("<a><password/></a>", FORM, "<a></a>"),
        ("<r><v>{&quot;password&quot;:1,&quot;a&quot;:&quot;é&quot;}</v></r>", XML, '<r><v>{"a":"&#233;"}</v></r>'),
        ("<r><v><![CDATA[<a><password/>ü</a>]]></v>&lt;</r>", XML, "<r><v>&lt;a&gt;&#252;&lt;/a&gt;</v>*****</r>"),
        ("<r><a>password: <b>S</b>S</a><b>1</b></r>", XML, "<r><a>*****</a><b>1</b></r>"),
        ("<r><a><b>pass</b>word<!-- -->: <i>S</i></a>2</r>", XML, "<r><a><b>pass</b>*****</a>2</r>"),
        ("<r><a><b>password</b>: <b>S</b></a>2</r>", XML, "<r><a><b>password</b>*****</a>2</r>"),
        ("<r><c>password</c><c>: S</c></r>", XML, "<r><c>password</c><c>*****</c></r>"),
        ("<r><c>password</c><c>:</c><c>S</c>T</r>", XML, "<r><c>password</c><c>*****</c><c>*****</c>T</r>"),
        ("<r><c>password: <d/></c>S<c>T</c></r>", XML, "<r><c>*****</c>*****</r>"),
        ("<r><c>password: <d>S</d></c>T</r>", XML, "<r><c>*****</c>T</r>"),
        ("<r><c>password</c><c>S</c><c>: T</c></r>", XML, "<r><c>password</c><c>S</c><c>: T</c></r>"),
        ("<r><dt>password:</dt><dd>S</dd></r>", XML, "<r><dt>*****</dt><dd>*****</dd></r>"),
        ("<r><a>password</a><b>S: 1</b></r>", XML, "<r><a>password</a><b>S: 1</b></r>"),
        ("<r v='a=1&amp;password=2' w='x'/>", XML, "<r v=\"a=1\" w='x'/>"),
    ],
)  # fmt: skip
def test_only_the_masked_field_is_taken_out(raw: str, content_type: str, expected: str) -> None:
    told = shown(raw, content_type)
    assert told is not None
    assert told.decode() == expected


@pytest.mark.parametrize(
    ("headers", "content", "expected"),
    [
        ("", b'{"password":1,"a":2}', b'{"a":2}'),
        ("", b"<a><password/></a>", b"<a></a>"),
        ("", b"password=1&a=2", b"a=2"),
        ("", b"name,password\r\nada,S", b"*****"),
        ("", "password=S".encode("utf-16"), b"*****"),
        ("Content-Type: text/plain", b"a: 1\r\npassword: S", b"*****"),
        ("Content-Type: text/csv", b"a", b"*****"),
        ("Content-Type: image/png", b"\x89PNG", b"*****"),
        ("Content-Type: application/json", b'\xef\xbb\xbf{"password":1}', b"\xef\xbb\xbf{}"),
        ("Content-Transfer-Encoding: base64", b64encode(b'{"password":1,"a":2}'), b64encode(b'{"a":2}')),
        ("Content-Transfer-Encoding: base64", b"a", b"*****"),
        ("Content-Transfer-Encoding: quoted-printable", b"pass=77ord=3D1&a=3D2", b"a=3D2"),
        ("Content-Transfer-Encoding: base64", b'{"password":"abcd"}', b"*****"),
        ("Content-Transfer-Encoding: base64", b"password=abcd", b"*****"),
        ("Content-Transfer-Encoding: base64", b"YQ==" + b64encode(b'{"password":1}'), b"*****"),
        ("Content-Transfer-Encoding: base64", b"YWFh\r\nYWFh\r\n", b"YWFh\r\nYWFh\r\n"),
        ("Content-Transfer-Encoding: quoted-printable", b"password=5353", b"*****"),
        ("Content-Transfer-Encoding: quoted-printable", b"I lost my=20password", b"I lost my=20password"),
        ("Content-Transfer-Encoding: x-uuencode", b"a", b"*****"),
        ("Content-Encoding: gzip", gzip.compress(b'{"password":1}', mtime=0), b"*****"),
        ("Content-Encoding: identity", b"password=1&a=2", b"a=2"),
    ],
)
def test_a_part_is_masked_as_a_body_of_its_own(headers: str, content: bytes, expected: bytes) -> None:
    def multipart(text: bytes) -> bytes:
        head = "\r\n".join(filter(None, ['--frontier\r\nContent-Disposition: form-data; name="v"', headers]))
        return head.encode() + b"\r\n\r\n" + text + b"\r\n--frontier--"

    assert shown(multipart(content), MULTIPART) == multipart(expected)


@pytest.mark.parametrize("depth", [3, 16, 30, 3000])
def test_forms_in_parts_of_forms_are_masked_as_deep_as_they_go(depth: int) -> None:
    body, kind = f'{{"password":"{SECRET}","a":1}}', "application/json"
    for level in range(depth):
        head = f'--b{level}\r\nContent-Disposition: form-data; name="a"\r\nContent-Type: {kind}\r\n\r\n'
        body, kind = f"{head}{body}\r\n--b{level}--", f"multipart/form-data; boundary=b{level}"
    told = shown(body, kind)
    assert told is not None
    assert SECRET.encode() not in told
    assert ((b'{"a":1}' in told), (b"*****" in told)) == (depth <= 16, depth > 16)


def test_what_is_wrapped_too_often_is_left_out() -> None:
    text = f"password={SECRET}"
    for _ in range(30):
        text = "a=" + quote_plus(text)
    told = shown(text, FORM)
    assert told is not None
    assert SECRET.encode() not in told
    assert told.endswith(b"*****")


@pytest.mark.parametrize("digits", ["9" * 10_000, "0" * 10_000 + "112"])
def test_a_character_reference_may_have_any_number_of_digits(digits: str) -> None:
    assert shown(json.dumps({"m": f"password &#{digits};"})) is not None
    assert shown(json.dumps({"m": f"password &#{digits}; = S"})) == b'{"m": "*****"}'


# --- its cost ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "password." * 50_000,
        "[password" * 50_000,
        ",password" * 50_000,
        "\npassword" * 50_000,
        "password" + "!" * 500_000,
        "password" + "name = " * 70_000,
        "password" + "<a" * 200_000,
        "<a " * 200_000,
        "%25" * 150_000,
        "%" + "25" * 200_000,
        "&amp;#" + "amp;" * 100_000,
        "\\" * 400_000 + "password",
        "<a>password" + "<!---->" * 60_000 + "</a>",
        "<a>" + "<![CDATA[password]]>" * 25_000 + "</a>",
        "<a " + " ".join(f'b{number}="password"' for number in range(20_000)) + "/>",
        "a=1;" * 100_000 + "password",
        "a" + "!" * 200_000 + " " * 200_000 + "=password",
    ],
    ids=lambda text: repr(text[:16]),
)
@pytest.mark.timeout(30)
def test_hostile_text_costs_linear_time(text: str) -> None:
    """Quadratic work on texts of this size would take minutes, which the time limit of the test ends."""
    shown(json.dumps({"a": text}))
    shown(text, FORM)
    shown(f"<r>{escape(text)}</r>", "text/xml")


# --- names beyond ASCII, in whatever encoding -----------------------------------------------------------------------

BEYOND_ASCII = ("clé", "straße", "пароль", "パスワード")
ENCODINGS = ("utf-8", "latin-1", "cp1251", "shift-jis")
PART = b'--frontier\r\nContent-Disposition: form-data; name="a"\r\n\r\n%b\r\n--frontier--'


def in_encodings(name: str) -> set[bytes]:
    """As bytes of every charset that can write it, composed and decomposed, and as UTF-8 that was taken for Latin-1."""
    spellings = [normalize(form, name) for form in ("NFC", "NFD")]
    found = {
        text.encode(encoding, "ignore") for text in spellings for encoding in ENCODINGS if can_write(text, encoding)
    }
    return found | {text.encode().decode("latin-1").encode() for text in spellings}


def can_write(text: str, encoding: str) -> bool:
    return text.encode(encoding, "ignore").decode(encoding) == text


@pytest.mark.parametrize("name", BEYOND_ASCII)
def test_a_name_beyond_ascii_is_found_in_every_encoding(name: str) -> None:
    masks = frozenset({name})
    for spelled in in_encodings(name):
        escaped = quote(spelled)
        for raw, content_type in (
            (PART % (spelled + b"=SECRET"), MULTIPART),
            (PART % (b"the " + spelled + b" is: SECRET"), MULTIPART),
            (f"{escaped}=SECRET&a=1".encode(), FORM),
            (f"a=1%26{escaped}%3DSECRET%0A".encode(), FORM),
            (json.dumps({f"{escaped}": "SECRET"}).encode(), ""),
            (json.dumps({"url": f"https://x/?{escaped}=SECRET"}).encode(), ""),
        ):
            told = shown(raw.replace(b"SECRET", SECRET.encode()), content_type, masks)
            assert told is None or SECRET.encode() not in told, (spelled, raw)


@pytest.mark.parametrize("name", BEYOND_ASCII)
@pytest.mark.parametrize("place", ["/s?{}=SECRET", "/s?a=1&u=/x?{}=SECRET", "/s;{}=SECRET/t", "/s%3F{}=SECRET"])
def test_a_parameter_beyond_ascii_is_found_beside_what_is_no_utf_8(name: str, place: str) -> None:
    """One byte that is none makes the whole header or target text of Latin-1."""
    for spelled in (quote(name), name, *(quote(name.encode(it)) for it in ENCODINGS[1:4] if can_write(name, it))):
        for rest in (b"", b"&b=\xff", b"/\xff"):
            target = text(place.format(spelled).replace("SECRET", SECRET).encode() + rest)
            assert SECRET not in mask_query(target, frozenset({name}))
            assert SECRET not in mask_urls({"x": f"see {target} there"}, frozenset({name}))["x"]


@pytest.mark.parametrize("name", BEYOND_ASCII)
def test_a_part_in_utf_16_has_no_name_beyond_ascii(name: str) -> None:
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        told = shown(PART % f"{name}: {SECRET}".encode(encoding), MULTIPART, frozenset({name}))
        assert told is not None
        assert SECRET not in told.replace(b"\0", b"").decode("latin-1")


def test_xml_that_is_read_in_another_charset_than_its_own_holds_no_name_beyond_ascii() -> None:
    raw = f"<a><clé>{SECRET}</clé><b n='clé: {SECRET}'/></a>".encode()
    for charset in ("utf-8", "iso-8859-1", "windows-1252"):
        told = shown(raw, f"text/xml; charset={charset}", frozenset({"clé"}))
        assert told is None or SECRET.encode() not in told


def test_what_is_no_name_beyond_ascii_stays() -> None:
    raw = json.dumps({"café": "crème: brûlée", "prix": "12 €"}, ensure_ascii=False).encode()
    assert shown(raw, "", frozenset({"clé"})) == raw


# --- the cheap search ------------------------------------------------------------------------------------------------

NAMES = ("password", "api_key", "tok.en", "a-b", "pin")
PLAINLY: tuple[Callable[[str], str], ...] = (str, str.upper, lambda it: f"\\{it}")
ESCAPES: tuple[Callable[[str], str], ...] = (
    *(str, str.upper, lambda it: f"%{ord(it):02X}", lambda it: f"\\u{ord(it):04x}"),
    *(lambda it: f"&#{ord(it)};", lambda it: f"&#x{ord(it):x};", lambda it: f"&#00{ord(it)}"),
    *(lambda it: f"%u{ord(it):04x}", lambda it: f"\\x{ord(it):02x}", lambda it: f"\\{ord(it):03o}"),
    *(lambda it: f"{it}]]>", lambda it: f"{it}<!-- -->", lambda it: f"{it}\0"),
)
befores = st.sampled_from(["", "a ", "u[", "--", ".", "&", "&amp", "&#46", "x=1&", "\n", "\\", "%", "_"])


@given(st.sampled_from(NAMES), befores, st.integers(0, 3), st.randoms(use_true_random=False))
def test_where_a_name_is_read_the_cheap_search_finds_it(name: str, before: str, times: int, random: Random) -> None:
    spelled = before + "".join(escape(letter) for letter in name for escape in random.choices(PLAINLY, [8, 1, 1]))
    for _ in range(times):
        spelled = "".join(escape(letter) for letter in spelled for escape in random.choices(ESCAPES, [20] + [1] * 12))
    names = FieldNames(NAMES)
    if names.holds(spelled) or names.is_key_in(spelled.encode() + b"=1"):
        assert names.may_occur(spelled.encode())
