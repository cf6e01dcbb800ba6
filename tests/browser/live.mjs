// Shows a live page, runs the cell below it, and looks at the page while that cell is running; then clicks Stop.
//
//   node live.mjs CHROMIUM URL FOLDER
//
// The notebook's last cell trains, the one before shows the page. Prints one line of JSON: what the page said before,
// twice during, and after the training, and what the training printed. Screenshots go into FOLDER.
import { launch, open } from "./notebook.mjs";

const [executablePath, url, folder] = process.argv.slice(2);
const browser = await launch(executablePath);
const { page, notebook, state, until, command, theme } = await open(browser, url);
const cells = (await state()).cells;

const text = (id, place = page) => place.locator(`#${id}`).textContent();
const step = async (place) => Number((await text("done", place)).match(/step (\S+) of/)?.[1].replace(/\D/g, ""));
const ran = (n) => until((now) => now.executed === n && now.kernel === "idle", 10);
// Of the cell that trains; JupyterLab appends an empty one when it is run.
const output = () => page.evaluate((n) => {
  const { outputs } = [...window.jupyterapp.shell.currentWidget.content.model.cells][n - 1].toJSON();
  return outputs.map((o) => [o.text ?? []].flat().join("")).join("").trim();
}, cells);

await notebook.locator(".jp-Cell").first().click();
for (let i = 1; i < cells; i++) {
  await page.keyboard.press("Shift+Enter");
  await page.waitForTimeout(100);
  await ran(i);
}
await page.locator("#state").waitFor();
const before = await text("state");
await page.screenshot({ path: `${folder}/live-waiting.png` });

await page.keyboard.press("Shift+Enter");
const look = async () => ({
  step: await step(), state: await text("state"), output: await output(), kernel: (await state()).kernel,
  line: await page.locator("#loss-chart .line").evaluate((path) => path.getAttribute("d").length),
});
const moved = async (from) => {
  for (const end = Date.now() + 240_000; Date.now() < end; await page.waitForTimeout(100)) {
    if ((await step()) > from || (await state()).errors.length) return look();
  }
  throw new Error(`the page stays at step ${from}: ${await text("state")}, ${await text("note")}`);
};
const first = await moved(5);
await page.screenshot({ path: `${folder}/live-light.png` });
const second = await moved(first.step + 5);
const picture = await page.locator("#picture").evaluate((image) => (
  { width: image.naturalWidth, rendering: getComputedStyle(image).imageRendering }));
await page.locator("#stop").click();
const { errors } = await ran(cells);
await page.waitForTimeout(2000);
const after = { step: await step(), state: await text("state") };
await theme("Dark");
await page.waitForTimeout(1500);
await page.screenshot({ path: `${folder}/live-dark.png` });
await theme("Light");

// The page as it is saved.
await command("docmanager:save");
const saved = await page.evaluate(() => JSON.stringify(window.jupyterapp.shell.currentWidget.content.model.toJSON()));
const paths = [...saved.matchAll(/data-folder=\\"([^"]*)\\"/g)].map((found) => found[1])
  .concat(saved.match(/\/(home|root|Users|tmp)\/[^"]*/g) ?? []);
const later = await open(browser, url);
await later.page.locator("#state").waitFor();
await later.page.waitForTimeout(2000);
const reloaded = { step: await step(later.page), state: await text("state", later.page) };

console.log(JSON.stringify({ errors, before, during: [first, second], picture, output: await output(), after, reloaded, paths }));
await browser.close();
