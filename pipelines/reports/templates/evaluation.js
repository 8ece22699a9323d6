// Turns the list of pairs into a viewer of one pair at a time; without this file the list stays a list.
"use strict";
(() => {
  const viewer = document.getElementById("viewer");
  const groups = [...viewer.querySelectorAll(".group")];
  const controls = viewer.querySelector(".controls");
  const select = controls.querySelector("select");
  const place = controls.querySelector("output");
  let group = 0, pair = 0;

  const figures = (number) => [...groups[number].querySelectorAll("figure")];

  const show = () => {
    groups.forEach((one, number) => {
      one.classList.toggle("off", number !== group);
      figures(number).forEach((figure, index) => figure.classList.toggle("off", number !== group || index !== pair));
    });
    select.value = String(group);
    place.textContent = `${pair + 1} of ${figures(group).length}`;
  };

  // Past a group's last pair comes the next group's first, round and round.
  const step = (by) => {
    pair += by;
    if (pair < 0 || pair >= figures(group).length) {
      group = (group + by + groups.length) % groups.length;
      pair = by > 0 ? 0 : figures(group).length - 1;
    }
    show();
  };

  groups.forEach((one, number) => select.add(new Option(one.querySelector("h3").textContent, String(number))));
  select.addEventListener("change", () => { group = Number(select.value); pair = 0; show(); });
  controls.querySelector(".back").addEventListener("click", () => step(-1));
  controls.querySelector(".on").addEventListener("click", () => step(1));
  viewer.querySelectorAll(".two img").forEach((image) => image.addEventListener("click", () => step(1)));
  document.addEventListener("keydown", (event) => {
    if (event.target === select || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "ArrowRight") step(1);
    else if (event.key === "ArrowLeft") step(-1);
    else return;
    event.preventDefault();
  });
  viewer.classList.add("viewing");
  controls.hidden = false;
  show();
})();
