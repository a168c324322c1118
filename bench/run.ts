import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { Bench, BenchContext } from './bench.ts'
import { canDrop } from './client.ts'
import { network, runInNamespace } from './namespace.ts'
import { formatResult, hasPassed, type BenchResult } from './report.ts'

const names = [
  'hit-large',
  'hit-tls',
  'hit-small',
  'coalesce',
  'site',
  'site-faults',
  'spread',
  'herd',
  'fresh',
  'connected',
  'discovery',
  'fill',
  'faults',
  'push',
  'outbox',
  'evict',
  'outage',
  'wrong',
  'scale',
] as const

const usage = `npm run bench -- [NAME…] [--counts] [--rounds N]
  NAME       one of ${names.join(', ')}; all without
  --counts   only those whose result is a count
  --rounds   rounds that count (5); coalesce, site, site-faults, faults, fresh and evict have their own
  --trace    for evict: a file with one 'digest size' a line, in the order of the requests`

async function main(): Promise<number> {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: {
      counts: { type: 'boolean' },
      rounds: { type: 'string' },
      trace: { type: 'string' },
      help: { type: 'boolean' },
    },
  })
  const unknown = positionals.filter((name) => !names.some((each) => each === name))
  if (values.help === true || unknown.length > 0) {
    console.log(usage)
    return unknown.length > 0 ? 2 : 0
  }
  const inNamespace = runInNamespace()
  if (inNamespace !== undefined) return inNamespace
  const countsOnly = values.counts === true
  const wanted = names.filter((name) => positionals.length === 0 || positionals.includes(name))
  const benches = (await Promise.all(wanted.map(loadBench))).filter(
    ({ counts }) => counts || !countsOnly,
  )
  if (benches.length === 0) {
    console.error(
      `--counts: the result of ${wanted.join(', ')} is not a count, so nothing would run`,
    )
    return 2
  }
  let passed = true
  for (const bench of benches) {
    const result = await run(bench, {
      countsOnly,
      rounds: Number(values.rounds ?? 5),
      trace: values.trace,
    })
    passed &&= hasPassed(result)
  }
  return passed ? 0 : 1
}

async function loadBench(name: (typeof names)[number]): Promise<Bench> {
  const { bench } = (await import(`./${name}.bench.ts`)) as { bench: Bench }
  return bench
}

async function run(
  bench: Bench,
  options: Pick<BenchContext, 'countsOnly' | 'rounds' | 'trace'>,
): Promise<BenchResult> {
  const folder = await mkdtemp(join(tmpdir(), `outport-bench-${bench.name}-`))
  const startedAt = performance.now()
  try {
    const result = await bench.run({
      ...options,
      folder,
      say: (line) => console.error(`${bench.name}: ${line}`),
    })
    const circumstances = {
      network: network(),
      client: canDrop() ? 'drops' : 'reads',
      rounds: result.rounds ?? options.rounds,
      seconds: Math.round((performance.now() - startedAt) / 1000),
    }
    console.log(formatResult(bench.name, result, circumstances))
    return result
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

process.exitCode = await main()
