() => {
  // The pictures of the examples get the names of their files, for those who do not see them.
  const name = () =>
    document.querySelectorAll("#examples .gallery-item:not([aria-label])").forEach((item) => {
      const file = item.querySelector("video, img")?.src.split("/").pop();
      if (file) item.setAttribute("aria-label", decodeURIComponent(file).replace(/\.\w+$/, "").replaceAll("-", " "));
    });
  new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
  name();

  // A click on a curve moves the slider there.
  document.addEventListener("click", (event) => {
    const frames = event.target.closest?.("[data-frames]")?.dataset.frames;
    const slider = document.querySelector("#frames input[type=range]");
    if (!frames || !slider) return;
    slider.value = frames;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    slider.dispatchEvent(new Event("change", { bubbles: true }));
  });
}
