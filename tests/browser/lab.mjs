// Opens a notebook in a running JupyterLab as a reader does, runs every cell, and looks at the result.
//
//   node lab.mjs CHROMIUM URL FOLDER
//
// Prints one line of JSON: {cells, executed, errors, pictures, broken, seconds: {first, all}}; puts screenshots of the
// light and the dark theme into FOLDER.
import { chromium } from "playwright-core";

const [executablePath, url, folder] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"],
});
const page = await browser.newPage({ viewport: { width: 1280, height: 1600 } });
const opened = Date.now();
await page.goto(url);
const notebook = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)");
await notebook.locator(".jp-CodeCell").first().waitFor({ timeout: 120_000 });
for (const button of await page.getByRole("button", { name: /^(No|Close|Dismiss)$/ }).all()) {
  await button.click().catch(() => {});  // the question about Jupyter's news
}

// What the notebook holds is read from its model: cells outside the window are not in the page.
const state = () => page.evaluate(() => {
  const panel = window.jupyterapp?.shell.currentWidget;
  const cells = [...(panel?.content?.model?.cells ?? [])].filter((cell) => cell.type === "code");
  const outputs = cells.flatMap((cell) => cell.toJSON().outputs);
  const kernel = panel?.sessionContext?.session?.kernel?.status;
  return {
    cells: cells.length,
    executed: cells.filter((cell) => cell.executionCount !== null).length,
    // A `?` that fails and a panic reach Jupyter as lines of stderr, not as an error.
    errors: outputs.filter((o) => o.output_type === "error" || o.name === "stderr").map((o) => o.evalue ?? o.text),
    pictures: outputs.filter((o) => o.data?.["image/png"] || o.data?.["image/gif"]).length,
    kernel,
  };
});
const until = async (condition, minutes) => {
  for (const end = Date.now() + minutes * 60_000; Date.now() < end; await page.waitForTimeout(250)) {
    const now = await state();
    if (condition(now) || now.errors.length) return now;
  }
  throw new Error(`still waiting after ${minutes} minutes: ${JSON.stringify(await state())}`);
};

await until((now) => now.cells > 0 && now.kernel === "idle", 5);
const command = (name) => page.evaluate((name) => window.jupyterapp.commands.execute(name), name);
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

// Every picture must really have been drawn. Scrolling brings them into the page.
let broken = 0;
const drawn = new Set();
await command("notebook:go-to-first-cell").catch(() => {});
for (let i = 0; i < end.cells * 2; i++) {
  const images = await notebook.locator(".jp-OutputArea-output img").evaluateAll((all) =>
    all.map((img) => ({ src: img.src.slice(0, 200) + img.src.length, ok: img.complete && img.naturalWidth > 0 })));
  images.forEach((img) => drawn.add(img.src));
  broken += images.filter((img) => !img.ok).length;
  await page.mouse.move(640, 800);
  await page.mouse.wheel(0, 900);
  await page.waitForTimeout(150);
}
for (const theme of ["JupyterLab Light", "JupyterLab Dark"]) {
  await page.evaluate((theme) => window.jupyterapp.commands.execute("apputils:change-theme", { theme }), theme);
  await page.waitForTimeout(1500);
  const panel = notebook.locator(".jp-WindowedPanel-outer").first();
  for (const [place, share] of [["top", 0], ["middle", 0.35], ["end", 0.7]]) {
    await panel.evaluate((element, share) => element.scrollTo(0, element.scrollHeight * share), share);
    await page.waitForTimeout(1000);
    await page.screenshot({ path: `${folder}/${theme.split(" ")[1].toLowerCase()}-${place}.png` });
  }
}
console.log(JSON.stringify({ ...end, drawn: drawn.size, broken, seconds: { first, all } }));
await browser.close();
