// Shows an image in its full size on a click; without this file the click opens the image's own file.
"use strict";
(() => {
  const links = [...document.querySelectorAll(".gallery a")];
  const dialog = document.querySelector("dialog");
  const large = dialog.querySelector("img");
  let place = 0;

  const show = (to) => {
    place = (to + links.length) % links.length;
    large.src = links[place].href;
    large.alt = links[place].querySelector("img").alt;
    dialog.querySelector("p").textContent = `${large.alt} (${place + 1} of ${links.length})`;
  };

  links.forEach((link, index) => link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    show(index);
    dialog.showModal();
  }));
  large.addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") show(place + 1);
    else if (event.key === "ArrowLeft") show(place - 1);
    else return;
    event.preventDefault();
  });
})();
