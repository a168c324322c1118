import { defineGroup } from '../command-line.ts'
import { acceptEpoch } from './keys/accept-epoch.ts'
import { drop } from './keys/drop.ts'
import { list } from './keys/list.ts'
import { makeRoot } from './keys/make-root.ts'
import { pending } from './keys/pending.ts'
import { rotate } from './keys/rotate.ts'
import { sign } from './keys/sign.ts'
import { submit } from './keys/submit.ts'

/** `outport keys` */
export const keys = defineGroup(
  'keys',
  'the signing keys of a primary: look, rotate, and go on after a restore',
  [list, rotate, drop, makeRoot, pending, sign, submit, acceptEpoch],
)
