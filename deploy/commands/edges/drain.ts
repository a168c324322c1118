import { defineCommand } from '../../command-line.ts'
import { changeEdge } from './change.ts'
import { adminOptions } from './options.ts'

/** `outport edges drain` */
export const drain = defineCommand({
  name: 'edges drain',
  summary: 'have an edge leave: nobody is sent there, and it ends what it is sending',
  words: ['ID'],
  options: adminOptions,
  notes: `'outport edges show' says 'drained' once nothing is being sent any more; the edge may be stopped then.`,
  run: (options, [id = '']) =>
    changeEdge(options, id, {
      method: 'POST',
      action: '/drain',
      done: `The edge '${id}' drains; 'outport edges show ${id}' says when it is done, 'outport edges resume ${id}' ends that.`,
    }),
})
