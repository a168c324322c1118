import { test } from 'node:test'
import { killNetwork } from '../kit/network-kills.ts'
import { chooseSeed } from '../kit/random.ts'

const kills = Number(process.env['OUTPORT_KILLS'] ?? 100)
const seed = chooseSeed()

test(`a network says nothing untrue under ${kills} kills, OUTPORT_SEED=${seed}`, (t) =>
  killNetwork(t, { edges: 4, kills, seed }))
