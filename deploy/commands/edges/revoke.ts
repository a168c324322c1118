import { defineCommand } from '../../command-line.ts'
import { confirm } from '../../secret-input.ts'
import { changeEdge } from './change.ts'
import { adminOptions } from './options.ts'

/** `outport edges revoke` */
export const revoke = defineCommand({
  name: 'edges revoke',
  summary: 'end an edge for good: its secret and certificate count no more',
  words: ['ID'],
  options: {
    ...adminOptions,
    yes: { type: 'boolean', help: 'do not ask whether it is meant' },
  },
  async run(options, [id = '']) {
    const isMeant =
      options.yes ||
      (await confirm(`Revoke the edge '${id}' for good?`, {
        otherwise: `nobody can be asked here whether '${id}' is to be revoked for good: say --yes`,
      }))
    if (!isMeant) {
      process.stderr.write(`The edge '${id}' stays.\n`)
      return 1
    }
    return changeEdge(options, id, {
      method: 'DELETE',
      done: `The edge '${id}' is revoked. What it holds stays on its disk; to come back it joins anew, by a new token.`,
    })
  },
})
