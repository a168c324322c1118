import { defineCommand } from '../../command-line.ts'
import { changeEdge } from './change.ts'
import { adminOptions } from './options.ts'

/** `outport edges suspend` */
export const suspend = defineCommand({
  name: 'edges suspend',
  summary: 'let an edge read nothing more until it is resumed',
  words: ['ID'],
  options: adminOptions,
  run: (options, [id = '']) =>
    changeEdge(options, id, {
      method: 'POST',
      action: '/suspend',
      done: `The edge '${id}' is suspended; 'outport edges resume ${id}' ends that.`,
    }),
})
