// What the examples may become, the best first. Models know English words best, in every language of the page.

export const FIRST = { example: "examples/face.png", prompt: "a pumpkin on a blue background", strength: 0.8, seed: "8" };

export const IDEAS = {
  face: ["a pumpkin on a blue background", "a lion on a green background", "a star on a purple background"],
  house: ["a castle on a purple background", "a wrapped gift on a green background", "a house on a blue background"],
  tree: ["a mushroom on a blue background", "a palm tree on an orange background", "a tree on a yellow background"],
  fish: ["a rocket on a purple background", "an octopus on a white background", "a crab on a white background"],
  apple: ["a strawberry on a green background", "a red heart on a pink background", "a red apple on a white background"],
};
