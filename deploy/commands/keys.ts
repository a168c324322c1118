import { defineGroup } from '../command-line.ts'
import { acceptEpoch } from './keys/accept-epoch.ts'
import { drop } from './keys/drop.ts'
import { list } from './keys/list.ts'
import { rotate } from './keys/rotate.ts'

/** `outport keys` */
export const keys = defineGroup(
  'keys',
  'the signing keys of a primary: look, rotate, and go on after a restore',
  [list, rotate, drop, acceptEpoch],
)
