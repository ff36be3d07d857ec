"""Words for the 80 COCO classes, `name: synonym, …` in lines, PASCAL VOC's names too. See `vocabulary.coco`."""

from __future__ import annotations

COCO_SYNONYMS = """
person: man, woman, boy, girl, child, kid, baby, toddler, adult, guy, lady, gentleman, people, pedestrian, passenger,
  player, skier, snowboarder, skateboarder, surfer, rider, cyclist, worker, chef, farmer, policeman, fireman, teenager,
  baseball player, football player, basketball player, volleyball player, bus driver, truck driver, train conductor
bicycle: bike, tricycle
car: automobile, sedan, suv, van, minivan, taxi, cab, jeep, convertible
motorcycle: motorbike, motor bike, scooter, moped
airplane: plane, aeroplane, jet, passenger jet, aircraft, airliner, biplane
bus: minibus, coach
train: locomotive, tram, passenger train
truck: lorry, pickup truck, pickup, fire truck, tow truck, dump truck
boat: ship, sailboat, canoe, kayak, ferry, yacht, motorboat, rowboat
traffic light: traffic signal, stoplight
fire hydrant: hydrant
stop sign:
parking meter:
bench:
bird: seagull, gull, duck, goose, pigeon, sparrow, parrot, owl, swan, crow, eagle, chicken, rooster, hen, peacock
cat: kitten, kitty
dog: puppy, pup
horse: pony, foal
sheep: lamb, ram, ewe
cow: bull, calf, ox, cattle
elephant:
bear: polar bear, grizzly bear, bear cub, panda
zebra:
giraffe:
backpack: rucksack, knapsack
umbrella: parasol
handbag: purse
tie: necktie, bow tie
suitcase: luggage
frisbee:
skis: ski
snowboard:
sports ball: ball, soccer ball, football, baseball, basketball, tennis ball, volleyball
kite:
baseball bat: bat
baseball glove: baseball mitt, catcher's mitt
skateboard:
surfboard: surf board
tennis racket: tennis racquet, racket, racquet
bottle: wine bottle, water bottle, beer bottle
wine glass: wineglass
cup: mug, teacup, coffee cup
fork:
knife:
spoon:
bowl:
banana:
apple:
sandwich: hamburger, burger, cheeseburger
orange:
broccoli:
carrot:
hot dog: hotdog
pizza:
donut: doughnut
cake: cupcake, cheesecake, carrot cake
chair: armchair, stool
couch: sofa, loveseat
potted plant: pottedplant, houseplant, house plant
bed:
dining table: table, diningtable
toilet: urinal, toilet seat
tv: television, tvmonitor, tv screen
laptop: laptop computer, notebook computer
mouse: computer mouse
remote: remote control
keyboard: computer keyboard
cell phone: cellphone, mobile phone, smartphone, phone, telephone
microwave: microwave oven
oven: stove
toaster:
sink: washbasin
refrigerator: fridge, freezer
book: novel
clock:
vase:
scissors:
teddy bear: teddy
hair drier: hair dryer, hairdryer
toothbrush: tooth brush
"""
# Phrases with a class word in them that is not there to be seen.
COCO_IGNORE = (
    "train track", "train station", "train platform", "bus stop", "bus station", "bus shelter", "car park",
    "home plate", "toilet paper", "toilet brush", "bed sheet", "bird cage", "bird house", "cat food", "dog food",
    "dog house", "dog bed", "bear in mind", "orange juice", "apple juice", "apple tree", "orange tree",
    "banana tree", "phone booth", "telephone pole", "telephone booth", "book shelf", "book case", "table cloth",
    "table lamp", "bike rack", "bike lane", "bike path", "bicycle rack", "bicycle lane", "baseball field",
    "baseball game", "baseball cap", "baseball uniform", "football field", "football game", "basketball court",
    "basketball hoop", "volleyball net", "volleyball court", "pizza box", "oven mitt", "bottle opener",
    "cup holder", "tv stand", "mouse pad",
)  # fmt: skip
COCO_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")
