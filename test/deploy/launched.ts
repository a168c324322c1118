// What the launcher starts in its tests: `launched.ts MODE`.
const [mode = '', ...rest] = process.argv.slice(2)
const { MALLOC_TOP_PAD_, MALLOC_MMAP_THRESHOLD_, NODE_COMPILE_CACHE, OUTPORT_LAUNCHER } =
  process.env
const malloc = [MALLOC_TOP_PAD_, MALLOC_MMAP_THRESHOLD_]
// Before the line that its test waits for.
if (mode === 'graceful') {
  process.on('SIGTERM', () => {
    process.stdout.write('graceful\n')
    process.exit(7)
  })
}
process.stdout.write(
  `${JSON.stringify({ pid: process.pid, version: process.versions.node, rest, malloc, NODE_COMPILE_CACHE, OUTPORT_LAUNCHER })}\n`,
)
if (mode === 'code') process.exitCode = 5
if (mode === 'abort') process.kill(process.pid, 'SIGKILL')
if (mode === 'wait' || mode === 'graceful') setInterval(() => undefined, 1000)
