import { defineCommand } from '../../command-line.ts'
import { changeEdge } from './change.ts'
import { adminOptions } from './options.ts'

/** `outport edges resume` */
export const resume = defineCommand({
  name: 'edges resume',
  summary: 'let a suspended edge read again, or a draining one serve',
  words: ['ID'],
  options: adminOptions,
  run: (options, [id = '']) =>
    changeEdge(options, id, {
      method: 'POST',
      action: '/resume',
      done: `The edge '${id}' may read and serve again.`,
    }),
})
