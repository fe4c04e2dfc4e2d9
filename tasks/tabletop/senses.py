"""Words with two meanings, and places where each of them is at home.

One word a paragraph: the word, then three contexts of its first sense and three of its second. `{n}` is a person (a
woman where the context says "her"), `{c}` a colour, `{d}` a time.
"""

from __future__ import annotations

TEXT = """
light
The feather is so light that it floats
A child carried this light {c} box {d}
{n} took the light bag because the other was too heavy
{n} switched on the light {d}
The light of the lamp shone on the wall
A bright light came through the window {d}

ball
{n} kicked the {c} ball into the goal
The {c} ball rolled under the table {d}
{n} threw the ball to a friend
The queen wore a {c} dress to the ball
{n} danced all night at the royal ball
The prince invited every lady to the ball {d}

ring
{n} put the golden ring on her finger
The {c} ring lay in the jewel box {d}
He gave her a diamond ring at the wedding
{n} had to ring the doorbell {d}
The phones ring all day in this office
Did you hear the bells ring {d}

star
A bright star shone in the night sky
{n} saw a falling star {d}
The sailors followed the north star {d}
The film star signed her name for {n}
{n} became a star of stage and television
Fans waited for the pop star {d}

bank
{n} opened an account at the bank
The bank lent {n} some money {d}
A robber took cash from the bank {d}
{n} sat on the grassy bank of the river
The boat lay on the muddy bank {d}
Trees grow along the bank of the stream

block
{n} put a {c} block on top of the tower
The child built a house from wooden block and stick
A stone block fell from the wall {d}
The police had to block the road {d}
Fallen trees block the way to the village
Do not block the door with your {c} bag

orange
{n} peeled an orange for breakfast
The juice of the orange was sweet
{n} bought an orange at the fruit market {d}
{n} painted the door orange {d}
An orange shirt is easy to see
The wall was orange and the roof was {c}

table
{n} laid the plates on the table
The {c} cube stood on the table {d}
We sat around the table for dinner
The table on page nine lists the numbers
{n} typed the results into a table {d}
Each row of the table shows one year

cross
{n} had to cross the street {d}
We had to cross the river by boat
Look both ways before you cross the road
The teacher was cross with {n} {d}
Mother gets cross when we are late
{n} was so cross that nobody dared to speak

square
{n} drew a {c} square on the paper
A square has four equal sides
The tile was cut into a perfect square {d}
The market is held in the town square {d}
Crowds gathered in the main square of the city
{n} met us at the fountain in the square

blue
{n} painted the door blue {d}
The sky was blue and without a cloud
A blue cube lay beside the {c} ball
{n} felt blue after the sad news
She was lonely and blue {d}
Rainy days always make {n} blue

match
{n} lit the fire with a match
He struck a match in the dark {d}
The last match in the box was wet
Our team won the football match {d}
{n} watched the tennis match on television
The match ended two to one {d}

bat
A bat hung upside down in the dark cave
The bat flew out of the attic at night
{n} saw a bat catching insects {d}
{n} hit the baseball with a wooden bat
The player swung his bat {d}
{n} bought a new bat for cricket

right
Turn right at the next corner
{n} writes with the right hand
The {c} cube was on the right side {d}
{n} gave the right answer to every question
You were right and I was wrong {d}
The sum on the board is right

letter
{n} posted a letter to a friend {d}
The letter came in a {c} envelope
She wrote him a long love letter
The first letter of the alphabet is A
{n} cannot read the small letter on this sign
A capital letter begins each sentence

spring
Flowers bloom in spring
In spring the days become longer
{n} planted the garden in early spring
A metal spring in the old mattress broke
The toy jumps because of a coiled spring
{n} replaced the spring in the clock {d}

watch
{n} wore a {c} watch on the wrist
My watch is five minutes slow
The gold watch stopped ticking {d}
{n} went to watch a film {d}
We watch the birds from the window
Children watch too much television

nail
{n} hit the nail with a hammer
The picture hangs from a rusty nail
A nail stuck out of the {c} board {d}
{n} broke a nail on her thumb
She painted each nail {c} {d}
A nail grows slowly on a finger

park
{n} walked the dog in the park
Children played on the grass in the park {d}
The park is full of trees and flowers
{n} could not park the car {d}
Do not park in front of the garage
It is hard to park a truck in this street

rock
{n} climbed onto a large rock by the sea
The ship struck a sharp rock {d}
A rock rolled down the mountain
{n} plays guitar in a rock band
Loud rock music came from the radio {d}
The rock concert was sold out

bark
The dogs bark at every stranger
{n} heard a dog bark {d}
Puppies bark when they want to play
The bark of the old tree was rough
{n} cut a name into the bark of the oak
Beetles live under the {c} bark

wave
A high wave hit the ship at sea
The surfer rode the wave {d}
{n} was knocked over by a wave on the beach
{n} gave us a friendly wave from the train
With a wave of the hand she said goodbye
The king greeted the crowd with a wave {d}

kind
{n} is kind to old people
It was kind of you to help {d}
A kind nurse held her hand
What kind of music does {n} like
This kind of cheese comes from France
{n} had never seen that kind of bird

leaves
The leaves of the tree turn {c} in autumn
{n} swept the dry leaves from the path
The wind blew the leaves around {d}
The train leaves at noon
{n} leaves the office early
He never leaves the house without a hat

point
The pencil has a sharp point
{n} touched the point of the needle
The point of the knife broke off {d}
Our team needs one more point to win
{n} scored a point in the last minute
The player lost a point {d}

present
{n} got a birthday present {d}
She wrapped the present in {c} paper
The child opened the present with joy
All the pupils were present in class {d}
{n} was not present at the meeting
Every member who was present could vote

second
{n} came second in the race
This is the second time you are late
The second chapter is longer than the first
The flash lasted only a second
One minute has sixty of them and a second is short
Wait a second, {n} will come

trunk
The elephant lifted its trunk {d}
The elephant drinks water with its trunk
{n} fed a nut to the trunk of the elephant
{n} put the bags into the trunk of the car
The spare wheel was in the trunk {d}
He locked the {c} suitcase in the trunk

yard
The dog plays in the yard behind the house
{n} raked the yard {d}
There is a swing in our yard
The cloth is one yard long
{n} bought a yard of {c} silk
The fish was almost a yard in length

fan
{n} turned on the fan because it was hot
The fan on the ceiling cools the room
An electric fan hummed {d}
{n} is a fan of the football club
Every fan sang along at the concert
A fan asked the singer for a photo {d}

pen
{n} signed the paper with a {c} pen
My pen has no ink
She wrote the note with a pen {d}
The pigs sleep in their pen
{n} drove the sheep into the pen {d}
The farmer built a pen for the goats

duck
A duck swam on the pond
{n} fed bread to the duck {d}
The duck led her young to the water
{n} had to duck under the low door
Duck your head when the ball comes
The soldiers duck when they hear a shot

fly
A fly buzzed around the soup
{n} killed the fly with a newspaper
The fly sat on the {c} cake {d}
{n} had to fly to Paris {d}
Most birds can fly
The pilots fly over the mountains

saw
{n} cut the board with a saw
The carpenter sharpened his saw {d}
The saw hung beside the hammer
{n} saw a fox in the garden
We saw the {c} kite in the sky {d}
Nobody saw the thief

bowl
{n} ate a bowl of soup
The {c} bowl was full of fruit
The cat drank milk from a bowl {d}
{n} went to bowl with friends {d}
They bowl at the alley and knock down pins
You bowl the ball down the lane

can
{n} opened a can of beans
The empty can rolled down the street {d}
He drank a can of beer
{n} can speak three languages
Nobody can lift this {c} stone
She can swim faster than her brother

mine
That {c} coat is mine
The book is mine and not yours
The idea was mine, said {n}
The men dig coal in the mine
{n} worked deep in a gold mine
The mine was closed after the accident {d}

train
{n} took the train to the city
The train stopped at the station {d}
Passengers got off the train
The players train every day for the match
{n} had to train the young dog {d}
Athletes train hard before the games

novel
{n} read a novel about pirates
The author published her first novel {d}
This novel has nine hundred pages
{n} had a novel idea
The engineers found a novel method {d}
It was a novel way to solve the problem

patient
The doctor examined the patient {d}
The patient lay in a hospital bed
A nurse gave the patient some medicine
{n} is patient and never hurries
Be patient and wait for your turn
A good teacher must be patient with children

jam
{n} spread jam on the bread
The jam is made from {c} berries
A jar of jam stood in the kitchen {d}
We were stuck in a traffic jam {d}
The jam on the highway was ten miles long
{n} was late because of the jam on the road

palm
{n} lay in the shade of a palm on the beach
A tall palm grew beside the desert well
Coconuts fell from the palm {d}
{n} held the coin in her palm
The fortune teller read my palm {d}
His palm was hot and his fingers shook

pitcher
{n} poured water from the pitcher
A pitcher of lemonade stood on the table
The {c} pitcher broke {d}
The pitcher threw a fast ball
{n} is the best pitcher of the baseball team
The coach replaced the tired pitcher {d}

seal
A seal caught fish in the cold sea
The seal lay on the ice {d}
{n} watched the seal dive
The letter bore the {c} seal of the king
{n} broke the wax seal {d}
The document is valid with a stamp and a seal

well
{n} drew water from the well
The bucket fell into the deep well {d}
The village has an old stone well
{n} sings very well
She slept well {d}
He plays the piano well for his age

bright
The sun was bright {d}
{n} wore a bright {c} shirt
A bright lamp lit the room
{n} is a bright pupil who learns fast
The bright girl solved the puzzle at once
Only a bright student can pass this exam

court
The judge spoke in court {d}
{n} went to court because of the crime
A lawyer defended him in court
{n} hit the ball across the tennis court
The players left the court {d}
The basketball court has a new floor

key
{n} lost the key to the front door
Turn the {c} key in the lock
The {c} key opens this drawer
The song is played in a minor key
{n} sang in the wrong key
The music changed its key {d}
"""


def parse(text: str) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """{word: (contexts of the first sense, contexts of the second)}."""
    entries = [paragraph.splitlines() for paragraph in text.strip().split("\n\n")]
    return {lines[0]: (tuple(lines[1:4]), tuple(lines[4:7])) for lines in entries}


SENSES = parse(TEXT)
