"""Text-only conversations, written for the example.

They cover what image conversations do not: several languages, emoji, indented code, columns aligned with spaces, and
the name of a special token typed as ordinary text.
"""

from .picture import Round

CODE = '''\
```python
def running_mean(values):
    """Return the mean of the first 1, 2, 3, ... values."""
    total = 0.0
    means = []
    for count, value in enumerate(values, start=1):
        total += value
        means.append(total / count)
    return means
```'''

LETTER = """\
Dear Ms. Novák,

Thank you for the invitation to the summer concert. Sadly, I will be away that weekend and cannot come.

I wish you and the whole choir a wonderful evening.

Kind regards,
Émile"""

PRICES = """\
```
apples        1.20
pears         0.95
watermelon    4.50
```"""

JSON_INDENTED = """\
```json
{
  "name": "Lea",
  "age": 9,
  "pets": [
    "cat",
    "turtle"
  ]
}
```"""

FRENCH = "Le café ouvre à huit heures, mais la boulangerie est déjà ouverte."
SPANISH = "La cafetería abre a las ocho, pero la panadería ya está abierta."
GERMAN = "Das Café öffnet um acht Uhr, aber die Bäckerei hat schon geöffnet."

GREETINGS = """\
| Language | Good morning | Thank you |
|---|---|---|
| Chinese | 早上好 (zǎoshang hǎo) | 谢谢 (xièxie) |
| Japanese | おはようございます (ohayō gozaimasu) | ありがとうございます (arigatō gozaimasu) |"""

TEXT_CONVERSATIONS: list[tuple[Round, ...]] = [
    (
        ("What is 17 times 6?", "17 times 6 is 102."),
        ("Now add 48.", "102 + 48 = 150."),
        ("And divide the result by 4.", "150 divided by 4 is 37.5."),
    ),
    (
        ("How many meters are 3.5 kilometers?", "3.5 kilometers are 3500 meters, since one kilometer is 1000 meters."),
        ("And how many centimeters?", "One meter is 100 centimeters, so it is 350000 centimeters."),
    ),
    (
        ("Write a Python function that gives the running mean of a list of numbers.", CODE),
        ("What does it return for 2, 4 and 9?", "It returns 2.0, 3.0 and 5.0, that is 2 / 1, 6 / 2 and 15 / 3."),
    ),
    (
        ("Translate into French: The café opens at eight, but the bakery is already open.", FRENCH),
        ("The same in Spanish, please.", SPANISH),
        ("And in German?", GERMAN),
    ),
    (("How do you say “good morning” and “thank you” in Chinese and in Japanese? Make a table.", GREETINGS),),
    (
        ("请用一句话介绍苹果。", "苹果是一种又脆又甜的水果，可以直接吃，也可以做成果汁。"),
        ("它通常是什么颜色？", "苹果通常是红色、绿色或黄色的。"),
    ),
    (
        (
            "Write a short birthday message with a few emoji.",
            "Happy birthday, Sam! 🎂🎉 May the new year bring you good books, long walks and loud laughter. 🥳",
        ),
        (
            "Which emoji shows a woman astronaut?",
            "It is 👩‍🚀. It is made of three characters: a woman, an invisible joiner and a rocket.",
        ),
    ),
    (("Write a polite letter from Émile to Ms. Novák, who invited him to a concert. He cannot come.", LETTER),),
    (
        (
            'Indent this JSON by two blanks:\n{"name": "Lea", "age": 9, "pets": ["cat", "turtle"]}',
            JSON_INDENTED,
        ),
    ),
    (
        (
            "Write a haiku about rain.",
            "Rain taps on the roof,\nsmall rivers run down the street,\nthe garden drinks deep.",
        ),
        (
            "How many syllables does each line have?",
            "The lines have five, seven and five syllables, as is usual for a haiku.",
        ),
    ),
    (
        ("Line up these prices in a column: apples 1.20, pears 0.95, watermelon 4.50", PRICES),
        ("What do they cost together?", "Together they cost 1.20 + 0.95 + 4.50 = 6.65."),
    ),
    (
        (
            "A train leaves at 9:40 and arrives at 12:15. How long is the trip?",
            "It takes 2 hours and 35 minutes.",
        ),
        (
            "And if it leaves on time but arrives 20 minutes late?",
            "Then it arrives at 12:35, and the trip takes 2 hours and 55 minutes.",
        ),
    ),
    (
        ("How warm is 20 °C in degrees Fahrenheit?", "20 °C is 68 °F: 20 × 9 / 5 + 32 = 68."),
        ("Is that warm enough for a T-shirt?", "For many people, yes, at least in the sun and without wind."),
    ),
    (
        ("List all prime numbers below 30.", "2, 3, 5, 7, 11, 13, 17, 19, 23, 29"),
        ("What is their sum?", "Their sum is 129."),
        ("Is 129 itself a prime number?", "No, 129 = 3 × 43."),
        ("How many primes were on the list?", "There were ten primes on the list."),
    ),
    (
        (
            "What does </s> mean at the end of a text?",
            "Many tokenizers use </s> as the name of the token that ends a sequence. Typed in a text,"
            " it is nothing but four characters: <, /, s and >.",
        ),
    ),
]
