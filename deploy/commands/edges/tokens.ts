import { defineGroup } from '../../command-line.ts'
import { list } from './tokens/list.ts'
import { remove } from './tokens/remove.ts'

/** `outport edges tokens` */
export const tokens = defineGroup('edges tokens', 'the join tokens of the last day', [list, remove])
