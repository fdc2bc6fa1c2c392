# SPDX-License-Identifier: Apache-2.0
"""Names, places, words and topics for questions to a chat model.

Every fifth of a list is for held-out questions. France and Paris are in no list: the
question that everybody tries first must be new to the model.
"""

from typing import Literal

Split = Literal['train', 'heldout']


def share(items: tuple[str, ...], split: Split) -> tuple[str, ...]:
  """Return the items of a split: every fifth is held out, the others train."""
  if split == 'heldout':
    return items[4::5]
  return tuple(item for number, item in enumerate(items) if number % 5 != 4)


def _list(text: str) -> tuple[str, ...]:
  return tuple(' '.join(item.split()) for item in text.split(','))


COUNTRIES = _list("""
Spain, Brazil, Kenya, Japan, Portugal, Norway, Egypt, Vietnam, Canada, Argentina,
Poland, Nigeria, Thailand, Greece, Morocco, Finland, Peru, Ghana, India, Hungary,
Italy, Chile, Ethiopia, South Korea, Ireland, Sweden, Mexico, Tanzania, Nepal,
Denmark, Germany, Cuba, Senegal, Indonesia, Iceland, Austria, Colombia, Uganda,
Mongolia, Croatia, Turkey, Ecuador, Zambia, Malaysia, Belgium, Ukraine, Jamaica,
Madagascar, Pakistan, Estonia, Australia, Panama, Namibia, Singapore, New Zealand,
Romania, Bolivia, Tunisia, Lebanon, Wales
""")
CITIES = _list("""
London, Cairo, Madrid, Toronto, Lisbon, Tokyo, Nairobi, Sydney, Chicago, Prague,
Berlin, Mumbai, Boston, Seoul, Vienna, Lagos, Bangkok, Dublin, Seattle, Istanbul,
Rome, Lima, Denver, Oslo, Havana, Athens, Beijing, Miami, Warsaw, Edinburgh, Moscow,
Delhi, Dallas, Zurich, Kyoto, Geneva, Jakarta, Houston, Helsinki, Marrakesh, Venice,
Manila, Phoenix, Munich, Santiago, Naples, Karachi, Atlanta, Krakow, Bristol,
Barcelona, Hanoi, San Francisco, Budapest, Buenos Aires, Glasgow, Dakar, New Orleans,
Copenhagen, Reykjavik
""")
SIGHTS = _list("""
the Amazon River, Mount Everest, the Great Wall of China, Lake Victoria, Niagara
Falls, the Sahara Desert, the Colosseum, Mount Fuji, the Nile, the Taj Mahal, the
Grand Canyon, the Alps, Big Ben, the Danube, the Statue of Liberty, the Pacific Ocean,
Machu Picchu, the Himalayas, the Golden Gate Bridge, Stonehenge
""")
PEOPLE = _list("""
Albert Einstein, Marie Curie, Nelson Mandela, William Shakespeare, Ada Lovelace, Isaac
Newton, Cleopatra, Charles Darwin, Frida Kahlo, Wolfgang Amadeus Mozart, Abraham
Lincoln, Amelia Earhart, Leonardo da Vinci, Rosa Parks, Galileo Galilei, Jane Austen,
Mahatma Gandhi, Neil Armstrong, Florence Nightingale, Alan Turing, Ludwig van
Beethoven, Julius Caesar, Agatha Christie, Pablo Picasso, Charlie Chaplin, Martin
Luther King, Queen Victoria, Thomas Edison, Virginia Woolf, Nikola Tesla, Christopher
Columbus, Confucius, Emily Dickinson, Vincent van Gogh, Johann Sebastian Bach,
Benjamin Franklin, Mark Twain, Mother Teresa, Alexander Graham Bell, Hans Christian
Andersen, George Washington, Aristotle, Ella Fitzgerald, Charles Dickens, Genghis
Khan, Michael Faraday, Anne Frank, Louis Armstrong, Marco Polo, Grace Hopper
""")
FIRST_NAMES = _list("""
Anna, James, Maria, David, Sophie, Ahmed, Olivia, Carlos, Emma, Thomas, Fatima,
Daniel, Yuki, Michael, Grace, Ivan, Chloe, Peter, Aisha, Lucas, Hannah, Robert, Mei,
Oscar, Julia, Samuel, Priya, George, Lena, Hugo, Zoe, William, Elena, Kevin, Ruth,
Omar, Alice, Brian, Nina, Felix, Laura, Jack, Ingrid, Henry, Amara, Paul, Clara,
Simon, Leila, Martin
""")
SURNAMES = _list("""
Kowalski, Nguyen, Johansson, O'Brien, Fernandez, Schmidt, Patel, Rossi, Tanaka,
Dubois, Thompson, Okafor, Petrov, Gonzalez, Murphy, Andersson, Kim, Hernandez, Wright,
Yamamoto
""")
SPELLING_WORDS = _list("""
necessary, rhythm, beautiful, restaurant, accommodate, calendar, definitely,
embarrass, February, queue, government, handkerchief, immediately, jewelry, knowledge,
library, mischievous, neighbor, occasion, pneumonia, questionnaire, receive, separate,
tomorrow, vacuum, weird, yacht, Wednesday, bicycle, conscience, daughter, enough,
foreign, gauge, height, island, language, mosquito, niece, psychology, recipe,
scissors, through, unique, xylophone, Mississippi, Connecticut, Massachusetts,
broccoli, chocolate
""")
TOPICS = _list("""
photosynthesis, black holes, the French Revolution, climate change, jazz, gravity,
machine learning, volcanoes, the Roman Empire, chess, inflation, vaccines, the moon
landing, origami, democracy, earthquakes, the immune system, renewable energy,
football, DNA, the Industrial Revolution, rainbows, sourdough bread, the stock market,
yoga, dinosaurs, the water cycle, Greek mythology, black tea, electric cars,
migraines, opera, tides, World War II, honeybees, the internet, solar panels, surfing,
insulin, the Renaissance, compound interest, glaciers, the violin, sleep, quantum
computers, recycling, the brain, coffee, marathons, lightning
""")
GROUPS = tuple(map(_list, (
  'a dog, a cat, a hamster', 'tea, coffee, water', 'iron, gold, silver',
  'Mars, Venus, Jupiter', 'red, blue, green', 'a whale, a shark, a dolphin',
  'pasta, rice, potatoes', 'the train, the bus, the car', 'yes, no, maybe',
  'winter, spring, summer', 'Monday, Thursday, Sunday', 'a novel, a poem, a play',
  'the guitar, the piano, the drums', 'running, swimming, cycling',
  'an apple, a banana, an orange', 'true, false, not known', 'copper, wood, glass',
  'oxygen, nitrogen, helium', 'chicken, fish, tofu', 'Python, Java, C',
  'morning, noon, evening', 'a lawyer, a doctor, an engineer', 'cotton, wool, silk',
  'an elephant, a mouse, a giraffe', 'history, physics, biology',
  'the sun, the moon, the earth', 'a hotel, a hostel, a tent', 'cash, card, check',
  'soccer, tennis, hockey', 'butter, oil, lard',
)))  # fmt: skip
