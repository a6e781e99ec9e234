"""Plain English written for the training of the example's tokenizer, beside the texts of the example itself."""

# The system prompts that chat templates put before every conversation; the common ones, so that they stay short in
# tokens.
SYSTEM_PROMPTS = [
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions.",
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions.",
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language.",
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.",
    "USER: ASSISTANT: USER: ASSISTANT:",
    "[INST] <<SYS>> <</SYS>> [/INST] <Image> </Image>",
]

# Every printable ASCII character once, so that each has a piece. (The trainer's own option for this, required_chars,
# aborts the process in SentencePiece 0.2.0 when a character is not in the text.)
ASCII = " ".join(map(chr, range(0x21, 0x7F)))

PROSE = """\
The morning was cold and clear, and a thin line of smoke rose from the house at the end of the road.
My sister keeps a small garden behind the kitchen, where she grows beans, carrots, onions and a few strawberries.
When the bus finally came, the driver smiled and said that the bridge had been closed since the early morning.
She opened the window, looked at the mountains and wondered whether the snow would stay until the weekend.
There are many ways to describe a picture: you can start with the largest thing and then look at the details.
The old man walked slowly along the river with his dog, stopping now and then to watch the boats go by.
Please put the books back on the shelf when you have finished reading, and close the door behind you.
We counted the birds on the roof twice, and both times we found eleven of them.
A good answer is short, correct and complete; it says what is known and also what is not known.
The teacher asked the children to draw a house, a tree and the sun, and to color them with crayons.
Nobody remembered who had left the umbrella in the corner of the room, so it stayed there for a year.
In the afternoon the light changes quickly, and the shadows of the trees grow longer on the grass.
The shop sells bread, cheese, milk, eggs, butter, honey, apples, pears and different kinds of tea.
If you mix blue and yellow paint you get green; if you mix red and yellow you get orange.
He wrote a long letter to his friend, explaining how the new machine works and why it sometimes stops.
The numbers in the second column are larger than the numbers in the first column.
On the left side of the photo stands a tall woman in a blue coat, and on the right side a boy holds a red kite.
Water boils at one hundred degrees and freezes at zero degrees on the Celsius scale.
The library opens at nine in the morning and closes at six in the evening, except on Sundays.
Could you tell me which of these three colors you like best, and what it makes you think of?
The ship carried coffee, sugar and cotton across the ocean, and returned with paper, glass and tools.
Before you start cooking, read the whole recipe and put everything you need on the table.
A triangle has three sides, a square has four equal sides, and a circle has no corners at all.
They painted the door green, the walls white and the roof a dark shade of brown.
It rained for five days, so the football match between the two schools had to be moved to another week.
The computer reads the file line by line, checks each record and writes the result to a new file.
Learning a language takes time, but even a few minutes of practice every day will help.
The cat sleeps on the chair next to the window, because the sun warms that place first.
Our neighbors have two daughters; the older one plays the piano and the younger one plays the violin.
From the top of the tower you can see the harbor, the market, the railway station and the sea.
A model that has been trained on pictures and text can answer questions about what it sees.
Scientists measure the distance to the stars by looking at how they seem to move during the year.
The waiter brought two plates of soup, a bowl of salad, some rice and a bottle of water.
Between the parking lot and the street there is a narrow strip of grass with yellow flowers.
I would like to know how many people visited the museum in March, and whether there were more than in April.
After the storm the beach was covered with shells, pieces of wood and bright green plants.
The answer depends on the question: a simple question should get a simple answer.
Every evening the baker prepares the dough for the next day and cleans the oven.
The little boy laughed loudly when the clown dropped his hat into the fountain.
You should always check the result of a calculation, for example by doing it again in a different order.
The road to the village goes through a forest, crosses a small stone bridge and then climbs the hill.
An elephant is much heavier than a horse, yet it can walk almost without making a sound.
In this chart the horizontal axis shows the months and the vertical axis shows the number of visitors.
The train was late again, and several passengers decided to take a taxi together.
She answered politely that she did not understand the first part, and asked him to explain it once more.
Children under the age of six travel free of charge, older children pay half of the price.
The image shows a group of people sitting around a wooden table, talking and drinking coffee.
Because the sky was dark, we could see the moon and thousands of stars above the lake.
An engineer draws a plan first, then builds a small model, and only then begins with the real bridge.
The word at the end of this sentence is the longest one that I know: responsibility.
Farmers in this area grow wheat, corn, potatoes and sunflowers, and some of them keep sheep or goats.
Could the two bicycles in front of the station belong to the couple who rented the room upstairs?
The doctor told him to drink more water, to sleep eight hours and to go for a walk every day.
A map of the city hangs on the wall between the two windows, with a red pin for every school.
Please describe the scene as if you were speaking to someone who cannot see it.
The first clock is five minutes fast, the second is three minutes slow, and the third has stopped.
He carefully placed the last stone on top of the others, stepped back and took a photograph.
There is nothing unusual about the picture, apart from the fact that the car is parked on the sidewalk.
While the music was playing, the dancers moved in a large circle from the center to the edge of the stage.
Thank you very much for your help; without it we would not have been able to finish the work in time.
Some questions have no answer, and it is honest to say so instead of guessing.
The recipe needs two cups of flour, one cup of sugar, half a cup of milk, three eggs and a little salt.
for index, name in enumerate(names): print(index, name)
if value is None: raise ValueError("expected a number, found nothing")
    return sum(value * weight for value, weight in zip(values, weights))
        self.count = self.count + 1
<div class="picture"><img src="image.png" alt="A red circle"></div>
Yes. No. Maybe. Certainly! Of course. I do not know. What is this? Where is it? Who is that? Why? When? How?
January February March April May June July August September October November December
Monday Tuesday Wednesday Thursday Friday Saturday Sunday
one two three four five six seven eight nine ten eleven twelve twenty thirty fifty hundred thousand million
red orange yellow green blue purple pink brown black white gray
À bientôt, señora! Où est l'école? El niño pequeño está aquí. Schöne Grüße aus München, bis übermorgen.
"""
