# SPDX-License-Identifier: Apache-2.0
"""Templates of what people ask a chat model, by kind; every fifth is held out.

Fields such as {city}, {time} and {money} are filled in, {city2} with another value than
{city}; {a}, {b} and {c} are options of one kind, {how} is a constraint on the answer.
"""

_PLACES = """
What is the capital of {country}?
How many people live in {city}?
What language do they speak in {country}?
Is {city} north or south of {city2}?
Which country is {city} in?
What's the weather like in {city} in {month}?
How far is it from {city} to {city2}?
Where exactly is {sight}?
What is {country} famous for?
What currency is used in {country}?
I'm flying from {city} to {city2} on {date}. What should I pack?
What's the best way to get to {sight}?
Does {country} share a border with {country2}?
Tell me three things about {city}.
How long would it take me to see all of {sight}?
What time is it in {city} when it's {time} in {city2}?
Which is bigger, {country} or {country2}?
Can you recommend a restaurant in {city}?
What should I see in {country} in {small} days?
Who was born in {city}?
"""
_PEOPLE = """
Who was {person}?
When was {person} born?
What did {person} discover or invent?
Did {person} ever meet {person2}?
What is {person} best known for?
Where did {person} live?
Who lived earlier, {person} or {person2}?
Tell me about the life of {person}.
Is it true that {person} was left-handed?
What would {person} say about {topic}?
How do you pronounce the name {surname}?
Who is older, {first} or {first2}, if {first} is {small} and {first2} is {small2}?
My friend {first} {surname} lives in {city}. How can I surprise her?
Write a birthday card for {first}, who turns {number}.
What does the name {first} mean?
"""
_NUMBERS = """
What is {number} plus {number2}?
What's {small} times {small2}?
How much is {number} minus {small}?
What is {number} divided by {small}?
What's {small}% of {money}?
If a ticket costs {money}, how much are {small} of them?
I have {money} and spend {money2}. How much is left?
How many miles are {distance}?
Round {decimal} to the nearest whole number.
Is {number} a prime number?
Convert {distance} to miles, and {weight} to ounces.
What's the square root of {number}?
I bought {small} books for {money} each. What did I pay?
A recipe needs {weight} of flour for {small} people. What about {small2}?
Which is more, {fraction} or {small}%?
Count backwards from {small}.
The rent went up from {money} to {money2}. Is that a lot?
Is {small}% of {number} more than {small2}?
My phone number is {phone}. Please repeat it.
How old is someone who was born in {year}?
"""
_TIMES = """
Set an alarm for {time}.
Remind me to call {first} at {time}.
My train leaves at {time} and takes {small} hours. When do I arrive?
What day of the week was {date}?
How many days are there between {date} and {date2}?
The meeting moved from {time} to {time2}. Please write {first} a short note.
What happened in {year}?
Book a table for {small} people on {date} at {time}.
How long is it from {time} to {time2}?
Set a timer for {small} minutes.
Is {time} too late to call {first}?
I was born on {date}, {year}. How old am I?
What's a good plan for a day that starts at {time}?
Who was the president of the United States in {year}?
If it's {time} now, what time will it be in {small} hours?
"""
_SPELLING = """
How do you spell {word}?
How do you spell "{word}"?
Is it spelled {spelt} or {spelt2}?
My name is {surname}: {spelt_surname}.
Please spell the word {word} for me.
What does {word} mean, and how is it spelled?
Which letter comes first in "{word}"?
Spell {word} backwards.
How many letters are in {word}?
I always forget how to write {word}. Any tricks?
"""
_OPTIONS = """
Which do you like best: {a}, {b} or {c}?
Would you choose {a}, {b} or {c}?
Pick one: {a}, {b}, or {c}.
Answer with one word: {a}, {b} or {c}?
Which of these doesn't belong: {a}, {b}, {c} or {city}?
What do you prefer, {a} or {b}?
Shall we talk about {topic} or {topic2}?
A, B or C? A: {a}. B: {b}. C: {c}.
Choose between {a} and {b} for {first}.
Which came first, {a}, {b} or {c}?
Should I go to {city}, {city2} or {city3}?
Is it {a}, or is it {b}?
Sort these: {c}, {a}, {b}.
Who is taller, {first}, {first2} or {first3}?
Which do people like more, {a} or {c}?
"""
_CONSTRAINTS = """
Explain {topic} {how}.
{How}, what can you tell me about {topic}?
Describe {city} {how}.
Who was {person}? Answer {how}.
Tell me about {sight} {how}.
Tell me, {how}, why I should care about {topic}.
Summarize the history of {topic} {how}.
Write about {first} and {a} {how}.
What should I know about {country}? Please answer {how}.
{How}, please: what are the pros and cons of {topic}?
"""
_SMALL_TALK = """
Hi, I'm {first}. What's your name?
How are you today?
Good morning! Did you sleep well?
Thanks, {first}, that helps a lot.
What's up?
I'm bored. Tell me a joke.
Nice to meet you. I'm from {city}.
It's raining again, isn't it?
What are you up to this weekend?
Can you hear me?
I had a terrible day at work.
Do you like music?
Sorry, could you say that again?
My flight to {city} was canceled. I'm so annoyed!
Okay, let's talk about something else.
Guess what: I got the job!
Do you ever get tired?
That's not what I asked.
You're funny. Who made you?
I can't sleep. Any ideas?
Happy birthday! Oh wait, you don't have one, do you?
What should I cook tonight?
I think {first} is angry with me. What should I do?
Let's play a game.
See you tomorrow at {time}!
Never mind, I found it.
Are you a person or a machine?
Ugh, Mondays. Cheer me up, please.
What's your favorite color?
Could you speak a little slower?
Well, that was quick!
Tell me something I don't know.
No, I meant {city}, not {city2}.
My dog just ate {weight} of cheese. Is that bad?
Good night, and thank you for everything.
"""
_CONSTRAINT_LIST = """
in one sentence
in exactly five words
in simple words
in two short sentences
in fewer than 20 words
as a list of three points
to a six-year-old
without using the letter E
as a haiku
in exactly 10 words
as if you were a pirate
in three steps
as briefly as you can
in one word
with one example
in at most 50 words
as a rhyme
with a number in it
in a single paragraph
in exactly 7 words
"""


def _lines(text: str) -> tuple[str, ...]:
  return tuple(text.strip().splitlines())


TEMPLATES = {
  'places': _lines(_PLACES),
  'people': _lines(_PEOPLE),
  'numbers': _lines(_NUMBERS),
  'times': _lines(_TIMES),
  'spelling': _lines(_SPELLING),
  'options': _lines(_OPTIONS),
  'constraints': _lines(_CONSTRAINTS),
  'small_talk': _lines(_SMALL_TALK),
}
CONSTRAINTS = _lines(_CONSTRAINT_LIST)
