import fc from 'fast-check'
import { test } from 'node:test'
import { chooseSeed } from '../kit/random.ts'

// The properties of the fill engine, with twenty times the runs.

const seed = chooseSeed() | 0
process.env['OUTPORT_FILL_RUNS'] ??= '800'
fc.configureGlobal({ seed })
test(`the fill engine, OUTPORT_SEED=${seed}`, () => undefined)
await import('../shared/fill/fills.test.ts')
