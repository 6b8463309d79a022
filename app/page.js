// A click on a curve moves the slider there.
() => {
  document.addEventListener("click", (event) => {
    const frames = event.target.closest?.("[data-frames]")?.dataset.frames;
    const slider = document.querySelector("#frames input[type=range]");
    if (!frames || !slider) return;
    slider.value = frames;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    slider.dispatchEvent(new Event("change", { bubbles: true }));
  });
}
