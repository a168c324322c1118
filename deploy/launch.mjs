#!/usr/bin/env node
// Finds a Node that is new enough, sets glibc's malloc variables (they are read at exec; the first three halve
// the CPU of every path that allocates per read, and huge pages save a tenth of what large buffers cost) and
// becomes the program, or stands in for it.
// `launch.mjs COMMAND …` is the command line; `launch.mjs --run FILE …` any other TypeScript file.
// Plain JavaScript of old times, because it must run on the old Node of the machine.
import { spawn } from 'node:child_process'
import { accessSync, constants as files } from 'node:fs'
import { createRequire } from 'node:module'
import { constants } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const wantedMajor = 24
const here = dirname(fileURLToPath(import.meta.url))

const mallocVariables = {
  MALLOC_TRIM_THRESHOLD_: '536870912',
  MALLOC_MMAP_THRESHOLD_: '33554432',
  MALLOC_TOP_PAD_: '33554432',
  GLIBC_TUNABLES: 'glibc.malloc.hugetlb=1',
}

// V8's young generation may take 96 MB, which a start alone fills and nothing gives back: half of that is enough.
const nodeOptions = '--max-semi-space-size=16'

/**
 * Where compiled code is kept: beside the code, as trusted as that is, and from the first file on. Where nobody may
 * write there, the programs keep what they load in their data folder.
 */
function compiledCode() {
  const modules = join(here, '../node_modules')
  try {
    accessSync(modules, files.W_OK)
    return { NODE_COMPILE_CACHE: join(modules, '.cache/outport') }
  } catch {
    return {}
  }
}

function fail(message) {
  console.error(`outport: ${message}`)
  process.exit(1)
}

/** The path of a Node >= 24: the running one, else the pinned package's binary. */
function findNode() {
  if (Number(process.versions.node.split('.')[0]) >= wantedMajor) return process.execPath
  const name = `node-${process.platform}-${process.arch}`
  try {
    const manifest = createRequire(import.meta.url).resolve(`${name}/package.json`)
    const binary = join(dirname(manifest), 'bin', 'node')
    accessSync(binary, files.X_OK)
    return binary
  } catch {
    return fail(
      `needs Node ${wantedMajor} or newer; this is ${process.versions.node} and the package ${name} is not installed: run 'npm ci' (without --omit=optional), or install Node ${wantedMajor}`,
    )
  }
}

/** The file to run and its arguments. */
function program() {
  const [first, file, ...rest] = process.argv.slice(2)
  if (first !== '--run') return [join(here, 'outport.ts'), ...process.argv.slice(2)]
  if (file === undefined) return fail('--run needs a file: launch.mjs --run FILE [ARGUMENT…]')
  return [resolve(file), ...rest]
}

/**
 * Runs the program as a child, for a Node without execve. Signals sent to this pid are passed on; those of
 * a terminal reach the child anyway, which is why the program takes two in quick succession for one. The
 * child ends with us however we end: `follow-launcher.mjs` watches the channel, which closes even on SIGKILL.
 */
function standIn(node, args, env) {
  const follow = pathToFileURL(join(here, 'follow-launcher.mjs')).href
  const child = spawn(node, ['--import', follow, ...args], {
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
    env: { ...env, OUTPORT_LAUNCHER: 'here' },
  })
  child.on('error', (error) => fail(`cannot start ${node}: ${error.message}`))
  const forwarded = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR2']
  for (const signal of forwarded) process.on(signal, () => child.kill(signal))
  child.on('exit', (code, signal) => {
    process.exitCode = code ?? 128 + constants.signals[signal]
    if (signal === null) return
    // Whoever waits for us must see the same death: a shell stops its loop only for a SIGINT.
    for (const name of forwarded) process.removeAllListeners(name)
    process.kill(process.pid, signal)
  })
}

const node = findNode()
const args = [...process.execArgv, ...program()]
const env = {
  ...mallocVariables,
  ...compiledCode(),
  ...process.env,
  // What is given comes last, and counts: by a user, or by a program that was started so itself.
  NODE_OPTIONS: [nodeOptions, process.env.NODE_OPTIONS?.replace(nodeOptions, '').trim()]
    .filter(Boolean)
    .join(' '),
}
if (typeof process.execve === 'function') process.execve(node, [node, ...args], env)
else standIn(node, args, env)
