import { test } from 'node:test'
import { killNetwork } from '../kit/network-kills.ts'
import { chooseSeed } from '../kit/random.ts'

const seed = chooseSeed()

test(
  `a network says nothing untrue while its processes are killed, OUTPORT_SEED=${seed}`,
  // Ten starts of whole programs, on a machine that may have other things to do.
  { timeout: 300_000 },
  (t) => killNetwork(t, { edges: 2, kills: 10, seed, pauseMs: { push: 120, watch: 100 } }),
)
