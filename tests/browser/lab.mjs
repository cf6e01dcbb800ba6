// Opens a notebook in a running JupyterLab as a reader does, runs every cell, and looks at the result.
//
//   node lab.mjs CHROMIUM URL FOLDER
//
// Prints one line of JSON: {cells, executed, errors, pictures, broken, slider: {before, after}, seconds: {first, all}}; puts screenshots of the
// light and the dark theme into FOLDER.
import { launch, open } from "./notebook.mjs";

const [executablePath, url, folder] = process.argv.slice(2);
const browser = await launch(executablePath);
const opened = Date.now();
const { page, notebook, state, until, command, theme } = await open(browser, url);
await command("notebook:clear-all-cell-outputs");
await notebook.locator(".jp-Cell").first().click();
// The first cells as a reader runs them, with Shift+Enter, until the first picture; then all the rest.
for (let i = 0; i < 100 && (await state()).pictures === 0; i++) {
  await page.keyboard.press("Shift+Enter");
  await page.waitForTimeout(100);
  await until((now) => now.kernel === "idle", 15);
}
const first = (Date.now() - opened) / 1000;
await page.screenshot({ path: `${folder}/first.png` });
await command("notebook:run-all-below");
await page.waitForTimeout(500);
const end = await until((now) => now.executed === now.cells && now.kernel === "idle", 20);
const all = (Date.now() - opened) / 1000;

// Every picture must really have been drawn, and the arrow keys must move a slider. Scrolling brings them into the page.
let broken = 0, slider = null;
const drawn = new Set();
await command("notebook:go-to-first-cell").catch(() => {});
for (let i = 0; i < end.cells * 2; i++) {
  const images = await notebook.locator(".jp-OutputArea-output img").evaluateAll((all) =>
    all.map((img) => ({ src: img.src.slice(0, 200) + img.src.length, ok: img.complete && img.naturalWidth > 0 })));
  images.forEach((img) => drawn.add(img.src));
  broken += images.filter((img) => !img.ok).length;
  const input = notebook.locator(".diffusion-slider input").first();
  if (!slider && await input.isVisible().catch(() => false)) {
    const look = () => notebook.locator(".diffusion-slider").first().evaluate((figure) => ({
      value: figure.querySelector("output").textContent, said: figure.querySelector("input").getAttribute("aria-valuetext"),
      picture: figure.querySelector("img").src.length, name: figure.querySelector("input").getAttribute("aria-label") }));
    const before = await look();
    await input.focus();
    for (let press = 0; press < 3; press++) await page.keyboard.press("ArrowRight");
    slider = { before, after: await look() };
    for (const name of ["Dark", "Light"]) {
      await theme(name);
      await page.waitForTimeout(1000);
      await page.screenshot({ path: `${folder}/slider-${name.toLowerCase()}.png` });
    }
  }
  await page.mouse.move(640, 800);
  await page.mouse.wheel(0, 900);
  await page.waitForTimeout(150);
}
for (const name of ["Light", "Dark"]) {
  await theme(name);
  await page.waitForTimeout(1500);
  const panel = notebook.locator(".jp-WindowedPanel-outer").first();
  for (const [place, share] of [["top", 0], ["middle", 0.35], ["end", 0.7]]) {
    await panel.evaluate((element, share) => element.scrollTo(0, element.scrollHeight * share), share);
    await page.waitForTimeout(1000);
    await page.screenshot({ path: `${folder}/${name.toLowerCase()}-${place}.png` });
  }
}
console.log(JSON.stringify({ ...end, drawn: drawn.size, broken, slider, seconds: { first, all } }));
await browser.close();
